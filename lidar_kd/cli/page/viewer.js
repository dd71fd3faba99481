// SPDX-License-Identifier: Apache-2.0
// The viewer: what is shown and how; everything else reports to it and draws from it.
'use strict';

const SPEEDS = [1, 2, 5, 10];
const SLOW_MS = 45; // frames slower than this are drawn coarser
const MARK = { dark: '#ffffff', light: '#10151f' };

class Viewer {
  constructor(facts) {
    this.facts = facts;
    this.shelf = new ScanShelf();
    this.index = -1;
    this.scan = null;
    this.asked = 0; // the last one of several scans asked for quickly is shown
    this.state = {
      colouring: 'label', hidden: new Set(), theme: 'dark', heights: [0, 1],
      boxes: true, rings: true, shading: true, size: 45,
    };
    this.picked = null; // {row, point}
    this.firstView = 'home';
    this.speed = 5;
    this.timer = null;
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.camera = new Camera(still);
    this.scene = new Scene(byId('view'));
    this.panel = new Panel(facts.classes, {
      colouring: (name) => this.colourBy(name),
      toggleClass: (id) => this.toggleClass(id),
      onlyClass: (id) => this.showOnly(id),
      showAll: () => this.showAll(),
    });
    this.moving = { frames: 0, start: 0 };
    this.asleep = true;
    this.setTheme(matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark');
    new ResizeObserver(() => this.resize()).observe(byId('stage'));
    this.resize();
  }

  // --- scans

  arrive(element) {
    this.shelf.take(element);
    byId('time').hidden = this.shelf.length < 2;
    byId('slider').max = this.shelf.length - 1;
    this.showCounter();
    if (this.shelf.length === 1) this.show(0);
  }

  async show(index) {
    if (index < 0 || index >= this.shelf.length) return;
    this.asked = index;
    this.index = index;
    this.showCounter();
    const scan = await this.shelf.open(index);
    if (this.asked !== index) return;
    const first = this.scan === null;
    this.scan = scan;
    this.picked = null;
    this.state.heights = findHeights(scan);
    this.scene.setScan(scan);
    if (first) {
      this.goTo(this.firstView);
      this.camera.jump();
    }
    this.refresh();
  }

  step(by) {
    const { length } = this.shelf;
    if (length) this.show((this.index + by + length) % length);
  }

  showCounter() {
    byId('counter').textContent = `${this.index + 1} / ${this.shelf.length}`;
    byId('slider').value = this.index;
  }

  togglePlay() {
    const playing = this.timer !== null;
    if (playing) clearTimeout(this.timer);
    this.timer = null;
    byId('play').setAttribute('aria-pressed', String(!playing));
    if (!playing) this.playOn();
  }

  async playOn() {
    const start = performance.now();
    this.timer = 0;
    await this.show((this.index + 1) % this.shelf.length);
    if (this.timer === null) return;
    const rest = Math.max(0, 1000 / this.speed - (performance.now() - start));
    this.timer = setTimeout(() => this.playOn(), rest);
  }

  nextSpeed() {
    this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length];
    byId('speed').textContent = `${this.speed} Hz`;
  }

  // --- how it looks

  setTheme(theme) {
    this.state.theme = theme;
    document.documentElement.dataset.theme = theme;
    this.palette = this.facts.classes.map(({ colour, sort }) => calm(colour, theme, sort));
    this.refresh();
  }

  flipTheme() {
    this.setTheme(this.state.theme === 'dark' ? 'light' : 'dark');
  }

  colourBy(name) {
    if (!this.scan || !this.offered.includes(name)) return;
    this.state.colouring = name;
    this.refresh();
  }

  toggleClass(id) {
    const { hidden } = this.state;
    if (!hidden.delete(id)) hidden.add(id);
    this.refresh();
  }

  // A second time shows all again.
  showOnly(id) {
    const others = [...this.facts.classes.keys(), NO_CLASS].filter((each) => each !== id);
    const alone = others.every((each) => this.state.hidden.has(each));
    this.state.hidden = new Set(alone ? [] : others);
    this.refresh();
  }

  showAll() {
    this.state.hidden = new Set();
    this.refresh();
  }

  flip(name) {
    this.state[name] = !this.state[name];
    byId(name).checked = this.state[name];
    this.refresh();
  }

  resizePoints(by) {
    this.state.size = clamp(this.state.size + by, 0, 100);
    byId('size').value = this.state.size;
    this.wake();
  }

  // Everything that follows from the scan and the choices.
  refresh() {
    const { scan, state, palette } = this;
    if (!scan) return;
    this.offered = this.panel.showColourings(scan, state.colouring);
    if (!this.offered.includes(state.colouring)) {
      state.colouring = 'label';
      this.panel.showColourings(scan, state.colouring);
    }
    this.panel.showClasses(scan, state, palette);
    this.panel.showKey(scan, state);
    this.panel.showFacts(scan);
    this.panel.showPoint(this.picked && this.picked.point, palette, state.theme);
    byId('boxes-row').hidden = !scan.boxes.length;
    this.scene.setColours(buildColourTable(palette, state.hidden, state.theme));
    this.scene.setLines(this.listLines().pack());
    this.wake();
  }

  listLines() {
    const { scan, state, palette } = this;
    const list = new LineList();
    this.ringsShown = chooseRings(scan.reach);
    if (state.rings) {
      addRings(list, this.ringsShown, scan.ground, THEMES[state.theme].line);
      addSensor(list, scan.ground);
    }
    const chosen = this.picked && this.picked.point.box;
    for (const box of state.boxes ? scan.boxes : chosen ? [chosen] : []) {
      if (state.hidden.has(box.class)) continue;
      const colour = state.colouring === 'instance'
        ? colourNumber(1 + (box.number % 255), state.theme) : palette[box.class];
      addBox(list, box, colour, box === chosen);
    }
    return list;
  }

  // --- the camera

  goTo(name) {
    const view = structuredClone(VIEWS[name]);
    const ground = this.scan ? this.scan.ground : 0;
    if (name !== 'sensor') view.target[2] = ground + 1;
    this.camera.go(view);
    this.wake();
  }

  zoomAt(spot, factor) {
    const { clientWidth, clientHeight } = this.scene.canvas;
    const x = (2 * spot[0]) / clientWidth - 1;
    const y = 1 - (2 * spot[1]) / clientHeight;
    const height = this.scan ? this.scan.ground : 0;
    this.camera.zoom(factor, factor < 1 ? this.camera.hitPlane(x, y, height) : null);
    this.wake();
  }

  find(spot, reach) {
    const { scan, state } = this;
    if (!scan) return null;
    const column = ['truth', 'errors'].includes(state.colouring) ? 1 : 0;
    const isShown = (row) => !state.hidden.has(scan.values[4 * row + column]);
    const row = this.scene.pick(this.camera.matrix(), spot, reach, isShown);
    return row < 0 ? null : { row, point: scan.describe(row) };
  }

  pick(spot, reach) {
    this.picked = this.find(spot, reach);
    this.refresh();
  }

  clearPick() {
    this.picked = null;
    this.refresh();
  }

  lookAt(spot, reach) {
    const found = this.find(spot, reach);
    if (!found) return;
    this.camera.lookAt(found.point.place);
    this.wake();
  }

  // --- drawing

  resize() {
    const { clientWidth, clientHeight } = byId('stage');
    const density = Math.min(window.devicePixelRatio || 1, 2);
    this.scene.resize(clientWidth, clientHeight, density);
    this.overlay = prepareOverlay(byId('overlay'), clientWidth, clientHeight, density);
    this.camera.aspect = clientWidth / Math.max(clientHeight, 1);
    if (this.moving.frames === 0) this.scene.finer = density < 1.5 && !this.coarse ? 2 : 1;
    this.draw();
  }

  // Draws until nothing moves any more.
  wake() {
    if (!this.asleep) return;
    this.asleep = false;
    this.last = performance.now();
    this.moving = { frames: 0, start: this.last };
    requestAnimationFrame((time) => this.frame(time));
  }

  frame(time) {
    const more = this.camera.advance(Math.max(time - this.last, 1));
    this.last = time;
    this.draw();
    this.moving.frames++;
    this.drawCoarserIfSlow(time);
    this.asleep = !more;
    if (more) requestAnimationFrame((next) => this.frame(next));
  }

  drawCoarserIfSlow(time) {
    const { frames, start } = this.moving;
    if (this.coarse || frames < 8 || (time - start) / frames < SLOW_MS) return;
    this.coarse = true;
    this.scene.finer = 1;
  }

  draw() {
    const { state, camera } = this;
    const matrix = camera.matrix();
    this.scene.draw(matrix, {
      ...state, pointSize: 0.016 * 1.035 ** state.size,
    });
    this.drawOverlay(matrix);
  }

  drawOverlay(matrix) {
    const { scan, state, overlay, picked } = this;
    overlay.clear();
    if (scan && state.rings) {
      for (const radius of this.ringsShown) {
        overlay.label(project(matrix, [radius, 0, scan.ground]), `${radius} m`, state.theme);
      }
    }
    if (picked) overlay.mark(project(matrix, picked.point.place), MARK[state.theme]);
  }
}

// The ramp of heights spans what most points have.
function findHeights(scan) {
  const z = Float32Array.from({ length: Math.ceil(scan.count / 16) }, (_, i) => (
    scan.low[2] + scan.step[2] * scan.places[64 * i + 2])).sort();
  if (!z.length) return [0, 1];
  const high = z[Math.floor(0.98 * (z.length - 1))];
  return [scan.ground - 0.3, Math.max(high, scan.ground + 1)];
}
