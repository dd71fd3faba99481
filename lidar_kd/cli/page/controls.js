// SPDX-License-Identifier: Apache-2.0
// Mouse, touch and keys become calls of the viewer.
'use strict';

const STILL_PX = 5; // a press that moves less is a click
const DOUBLE_MS = 350;

class PointerControls {
  constructor(element, viewer) {
    this.element = element;
    this.viewer = viewer;
    this.fingers = new Map(); // pointer id -> [x, y]
    this.moved = 0;
    this.lastTap = { time: -1e9, spot: [0, 0] };
    const on = (name, job) => element.addEventListener(name, job.bind(this));
    on('pointerdown', this.press);
    on('pointermove', this.move);
    on('pointerup', this.release);
    on('pointercancel', this.cancel);
    element.addEventListener('wheel', this.wheel.bind(this), { passive: false });
    on('contextmenu', (event) => event.preventDefault());
  }

  spot(event) {
    const box = this.element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    this.element.setPointerCapture(event.pointerId);
    this.element.focus({ preventScroll: true });
    if (!this.fingers.size) this.moved = 0;
    this.fingers.set(event.pointerId, this.spot(event));
    if (this.fingers.size > 1) this.moved = Infinity;
  }

  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const spot = this.spot(event);
    if (this.fingers.size === 2) this.pinch(event.pointerId, spot);
    else if (this.fingers.size === 1) this.drag(event, before, spot);
    this.fingers.set(event.pointerId, spot);
  }

  drag(event, before, spot) {
    const way = [spot[0] - before[0], spot[1] - before[1]];
    this.moved += Math.hypot(...way);
    if (this.moved < STILL_PX) return;
    this.element.classList.add('dragging');
    const { camera } = this.viewer;
    const height = this.element.clientHeight;
    if (event.buttons & 6 || event.shiftKey) camera.pan(-way[0] / height, way[1] / height);
    else camera.rotate(way[0] * 0.006, way[1] * 0.006);
    this.viewer.wake();
  }

  pinch(id, spot) {
    const [other] = [...this.fingers.entries()].filter(([key]) => key !== id).map(([, at]) => at);
    const before = this.fingers.get(id);
    const { camera } = this.viewer;
    const apart = (a, b) => Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 10);
    camera.zoom(apart(before, other) / apart(spot, other));
    const height = this.element.clientHeight;
    camera.pan((before[0] - spot[0]) / 2 / height, (spot[1] - before[1]) / 2 / height);
    this.viewer.wake();
  }

  release(event) {
    const pressed = this.fingers.delete(event.pointerId);
    if (this.fingers.size) return;
    this.element.classList.remove('dragging');
    if (pressed && this.moved < STILL_PX) this.tap(event);
  }

  cancel(event) {
    this.fingers.delete(event.pointerId);
    this.element.classList.remove('dragging');
  }

  tap(event) {
    const spot = this.spot(event);
    const reach = event.pointerType === 'touch' ? 22 : 10;
    const near = Math.hypot(spot[0] - this.lastTap.spot[0], spot[1] - this.lastTap.spot[1]) < 24;
    const twice = near && event.timeStamp - this.lastTap.time < DOUBLE_MS;
    this.lastTap = { time: twice ? -1e9 : event.timeStamp, spot };
    if (twice) this.viewer.lookAt(spot, reach);
    else this.viewer.pick(spot, reach);
  }

  // Within another page the wheel scrolls that one until this one was clicked.
  wheel(event) {
    if (window !== window.top && document.activeElement !== this.element) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    const factor = Math.exp(clamp(event.deltaY * lines, -240, 240) * 0.0016);
    this.viewer.zoomAt(this.spot(event), factor);
  }
}

const TURN = 0.16; // radians by a key
const STEP = 0.06; // shares of the window by a key

// Key -> what it does; letters as they are without Shift.
function listKeys(viewer) {
  const { camera } = viewer;
  const by = (job) => () => { job(); viewer.wake(); };
  return {
    ArrowLeft: () => viewer.step(-1),
    ArrowRight: () => viewer.step(1),
    Home: () => viewer.show(0),
    End: () => viewer.show(viewer.shelf.length - 1),
    ArrowUp: by(() => camera.rotate(0, TURN)),
    ArrowDown: by(() => camera.rotate(0, -TURN)),
    'Shift+ArrowLeft': by(() => camera.pan(-STEP, 0)),
    'Shift+ArrowRight': by(() => camera.pan(STEP, 0)),
    'Shift+ArrowUp': by(() => camera.pan(0, STEP)),
    'Shift+ArrowDown': by(() => camera.pan(0, -STEP)),
    q: by(() => camera.rotate(TURN, 0)),
    e: by(() => camera.rotate(-TURN, 0)),
    '+': by(() => camera.zoom(0.85)),
    '=': by(() => camera.zoom(0.85)),
    '-': by(() => camera.zoom(1 / 0.85)),
    ' ': () => viewer.togglePlay(),
    r: () => viewer.goTo('home'),
    t: () => viewer.goTo('top'),
    s: () => viewer.goTo('side'),
    f: () => viewer.goTo('sensor'),
    b: () => viewer.flip('boxes'),
    g: () => viewer.flip('rings'),
    d: () => viewer.flip('shading'),
    '[': () => viewer.resizePoints(-8),
    ']': () => viewer.resizePoints(8),
    a: () => viewer.showAll(),
    l: () => viewer.flipTheme(),
    '?': () => document.getElementById('help').showModal(),
    Escape: () => viewer.clearPick(),
    ...Object.fromEntries(COLOURINGS.map((name, i) => [i + 1, () => viewer.colourBy(name)])),
  };
}

// Keys work wherever the focus is, except where an input needs them itself.
function bindKeys(viewer) {
  const keys = listKeys(viewer);
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.getElementById('help').open) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const { tagName, type } = event.target;
    const own = { BUTTON: [' ', 'Enter'], INPUT: type === 'range'
      ? ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Home', 'End'] : [' '] };
    if ((own[tagName] || []).includes(key)) return;
    const job = keys[event.shiftKey && key.startsWith('Arrow') ? `Shift+${key}` : key];
    if (!job) return;
    event.preventDefault();
    job();
  });
}
