// SPDX-License-Identifier: Apache-2.0
// Begins: the viewer, what the buttons do, and what the address asks for, as in
// page.html#scan=3&colour=errors&view=top&hide=road,building&theme=light
'use strict';

function bindButtons(viewer) {
  const click = (id, job) => byId(id).addEventListener('click', job);
  for (const name of Object.keys(VIEWS)) click(`view-${name}`, () => viewer.goTo(name));
  for (const name of ['boxes', 'rings', 'shading']) {
    byId(name).addEventListener('change', () => viewer.flip(name));
  }
  click('theme', () => viewer.flipTheme());
  click('help-button', () => byId('help').showModal());
  click('picked-close', () => viewer.clearPick());
  click('previous', () => viewer.step(-1));
  click('next', () => viewer.step(1));
  click('play', () => viewer.togglePlay());
  click('speed', () => viewer.nextSpeed());
  click('fold', () => fold(byId('fold').getAttribute('aria-expanded') === 'true'));
  byId('slider').addEventListener('input', (event) => viewer.show(Number(event.target.value)));
  byId('size').addEventListener('input', (event) => {
    viewer.resizePoints(Number(event.target.value) - viewer.state.size);
  });
}

function fold(closed) {
  byId('fold').setAttribute('aria-expanded', String(!closed));
}

// Scans may still arrive: what the address asks for is tried with each.
function followAddress(viewer) {
  const asked = new URLSearchParams(location.hash.slice(1));
  const hidden = (asked.get('hide') || '').split(',');
  const names = [...viewer.facts.classes.keys()];
  names.filter((id) => hidden.includes(viewer.facts.classes[id].name))
    .forEach((id) => viewer.state.hidden.add(id));
  if (COLOURINGS.includes(asked.get('colour'))) viewer.state.colouring = asked.get('colour');
  if (asked.get('theme') in THEMES) viewer.setTheme(asked.get('theme'));
  if (asked.get('view') in VIEWS) viewer.firstView = asked.get('view');
  return { scan: Number(asked.get('scan') || 1) - 1 };
}

function complain(error) {
  byId('trouble').hidden = false;
  byId('trouble').textContent = `This page cannot be drawn: ${error.message}. A current Firefox, `
    + 'Chrome, Edge or Safari with WebGL 2 shows it.';
}

// What the scripts after each scan call.
window.lidarKd = { arrive: () => {} };
try {
  const viewer = new Viewer(JSON.parse(byId('page-facts').textContent));
  bindButtons(viewer);
  bindKeys(viewer);
  new PointerControls(byId('view'), viewer);
  const asked = followAddress(viewer);
  if (matchMedia('(max-width: 760px)').matches) fold(true);
  byId('view').addEventListener('webglcontextlost', () => complain(new Error('the GPU is gone')));
  window.addEventListener('unhandledrejection', (event) => complain(event.reason));
  window.lidarKd.arrive = () => {
    viewer.arrive(document.currentScript.previousElementSibling);
    if (asked.scan > 0 && viewer.shelf.length === asked.scan + 1) viewer.show(asked.scan);
  };
  document.addEventListener('DOMContentLoaded', () => {
    if (!viewer.shelf.length) byId('facts').textContent = 'no scan';
  });
} catch (error) {
  complain(error);
  throw error;
}
