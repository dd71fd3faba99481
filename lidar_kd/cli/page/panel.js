// SPDX-License-Identifier: Apache-2.0
// The words beside the picture: colourings, the legend, the scan's facts, a picked point.
'use strict';

const COLOURING_NAMES = {
  label: 'Label', truth: 'Truth', errors: 'Errors', probability: 'Probability',
  instance: 'Object', intensity: 'Intensity', height: 'Height',
};
const NEEDED_PLANE = { height: 'x', errors: 'truth' }; // others: their own name

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'style') Object.assign(element.style, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function percent(share) {
  if (share > 0 && share < 0.0005) return '< 0.1 %';
  return `${(100 * share).toFixed(1)} %`;
}

function count(number) {
  return number.toLocaleString('en');
}

class Panel {
  // `on`: what is called when something is chosen.
  constructor(classes, on) {
    this.classes = classes;
    this.on = on;
    this.rows = new Map(); // class id -> {button, swatch, number}
    byId('all').addEventListener('click', () => on.showAll());
  }

  showColourings(scan, current) {
    const offered = COLOURINGS.filter((name) => scan.has(NEEDED_PLANE[name] || name));
    if (offered.join() !== this.offered) {
      this.offered = offered.join();
      byId('colourings').replaceChildren(...offered.map((name) => this.makeChip(name)));
    }
    for (const chip of byId('colourings').children) {
      chip.setAttribute('aria-checked', String(chip.dataset.colouring === current));
    }
    return offered;
  }

  makeChip(name) {
    const chip = make('button', {
      class: 'chip', role: 'radio', 'data-colouring': name,
      title: `Key ${COLOURINGS.indexOf(name) + 1}`,
    }, COLOURING_NAMES[name]);
    chip.addEventListener('click', () => this.on.colouring(name));
    return chip;
  }

  // The legend: classes with their share of the labels, of the truth, or of what is wrong.
  showClasses(scan, state, palette) {
    const byTruth = state.colouring === 'truth' || state.colouring === 'errors';
    const counts = byTruth ? scan.byTruth : scan.byLabel;
    const share = (id) => (state.colouring === 'errors'
      ? scan.wrongByTruth[id] / Math.max(counts[id], 1) : counts[id] / Math.max(scan.count, 1));
    const ids = [...counts.keys()].filter((id) => counts[id] || state.hidden.has(id));
    ids.sort((a, b) => (a === NO_CLASS) - (b === NO_CLASS) || share(b) - share(a) || a - b);
    const rows = ids.map((id) => this.fillRow(id, share(id), state, palette));
    const holder = byId('classes');
    if (rows.some((row, i) => row !== holder.children[i]) || holder.children.length > rows.length) {
      holder.replaceChildren(...rows);
    }
    byId('all').hidden = state.hidden.size === 0;
  }

  nameOf(id) {
    return id < this.classes.length ? this.classes[id].name : 'no label';
  }

  fillRow(id, share, state, palette) {
    const row = this.rows.get(id) || this.makeRow(id);
    const known = state.colouring !== 'errors' || id !== NO_CLASS;
    row.button.setAttribute('aria-pressed', String(!state.hidden.has(id)));
    row.button.style.setProperty('--share', known ? `${100 * share}%` : '0');
    row.swatch.style.background = css(palette[id] || THEMES[state.theme].unknown);
    row.number.textContent = !known ? '' : percent(share)
      + (state.colouring === 'errors' ? ' wrong' : '');
    return row.button;
  }

  makeRow(id) {
    const swatch = make('i');
    const number = make('span', { class: 'number' });
    const name = make('span', { class: 'spring' }, this.nameOf(id));
    const button = make('button', {
      class: 'class', 'data-class': id, title: 'Hide or show; double click: only this one',
    }, swatch, name, number);
    button.addEventListener('click', (event) => {
      if (event.detail <= 1) this.on.toggleClass(id);
      else if (event.detail === 2) this.on.onlyClass(id);
    });
    this.rows.set(id, { button, swatch, number });
    return this.rows.get(id);
  }

  // What the colours mean where they are not those of the classes.
  showKey(scan, state) {
    const look = THEMES[state.theme];
    const key = byId('key');
    if (state.colouring === 'errors') {
      const sorts = [[look.right, 'right'], [look.wrong, 'wrong'], [look.unknown, 'no truth']];
      key.replaceChildren(make('div', { class: 'sorts' }, ...sorts.map(([colour, name]) => make(
        'span', {}, make('i', { style: { background: css(colour) } }), name,
      ))));
      return;
    }
    const ends = this.findEnds(scan, state);
    if (!ends) return key.replaceChildren();
    const stops = Array.from({ length: 17 }, (_, i) => css(sampleRamp(look.ramp, i / 16)));
    key.replaceChildren(
      make('div', { class: 'ramp', style: {
        background: `linear-gradient(90deg, ${stops.join(', ')})` } }),
      make('div', { class: 'ends' }, ...ends.map((text) => make('span', {}, text))),
    );
  }

  findEnds(scan, { colouring, heights }) {
    if (colouring === 'probability') return ['0 %', '50 %', '100 %'];
    if (colouring === 'height') {
      const [low, high] = heights.map((z) => `${(z - scan.ground).toFixed(1)} m`);
      return [low, `${high} above ground`];
    }
    if (colouring !== 'intensity') return null;
    return scan.intensity.map((value) => Number(value.toPrecision(3)).toString());
  }

  showFacts(scan) {
    byId('name').textContent = scan.name;
    const facts = [`${count(scan.total)} points`];
    if (scan.count < scan.total) facts.push(`${count(scan.count)} drawn`);
    if (scan.boxes.length) facts.push(`${count(scan.boxes.length)} objects`);
    if (scan.has('truth')) {
      const known = scan.count - scan.byTruth[NO_CLASS];
      const wrong = scan.wrongByTruth.reduce((sum, n) => sum + n, 0);
      if (known) facts.push(`${percent(1 - wrong / known)} right`);
    }
    byId('facts').textContent = [...facts, ...scan.notes].join('  \u00b7  ');
  }

  showPoint(point, palette, theme) {
    byId('picked').hidden = !point;
    if (!point) return;
    const [swatch, name] = byId('picked-head').children;
    swatch.style.background = css(palette[point.label] || THEMES[theme].unknown);
    name.textContent = this.nameOf(point.label);
    const rows = this.listFacts(point);
    byId('picked-list').replaceChildren(...rows.flatMap(([key, value, sort]) => [
      make('dt', {}, key), make('dd', sort ? { class: sort } : {}, value),
    ]));
  }

  listFacts({ place, range, label, truth, probability, intensity, box }) {
    const rows = [];
    if (truth !== null) {
      const sort = truth === NO_CLASS ? '' : truth === label ? 'right' : 'wrong';
      rows.push(['truth', this.nameOf(truth), sort]);
    }
    if (probability !== null) rows.push(['probability', percent(probability)]);
    rows.push(['range', `${range.toFixed(1)} m`]);
    rows.push(['x, y, z', `${place.map((v) => v.toFixed(2)).join(', ')} m`]);
    rows.push(['intensity', Number(intensity.toPrecision(3)).toString()]);
    if (box) {
      rows.push(['object', `${box.number}, ${count(box.points)} points`]);
      rows.push(['confidence', percent(box.confidence)]);
      rows.push(['its box', `${box.size.map((v) => v.toFixed(1)).join(' \u00d7 ')} m`]);
    }
    return rows;
  }
}
