// SPDX-License-Identifier: Apache-2.0
// Scans: what the page holds of each as text, unpacked when it is shown.
'use strict';

const KEPT_BYTES = 192e6; // of unpacked scans

// One scan, ready to draw. `places` (4 N) x, y, z in steps and the object's number;
// `values` (4 N) label, truth, probability and intensity.
class Scan {
  constructor(facts, bytes) {
    Object.assign(this, facts);
    this.places = new Uint16Array(4 * this.count);
    this.values = new Uint8Array(4 * this.count);
    this.unpack(bytes);
    this.byLabel = this.countClasses(0);
    this.byTruth = this.has('truth') ? this.countClasses(1) : null;
    this.wrongByTruth = this.has('truth') ? this.countWrong() : null;
  }

  has(plane) {
    return this.planes.includes(plane);
  }

  // Planes follow each other; those of two bytes hold differences to the point before.
  unpack(bytes) {
    const { count } = this;
    let start = 0;
    const wide = ['x', 'y', 'z', 'instance'];
    const narrow = ['label', 'truth', 'probability', 'intensity'];
    this.values.fill(NO_CLASS);
    for (const plane of this.planes) {
      if (wide.includes(plane)) {
        const view = new DataView(bytes.buffer, bytes.byteOffset + start, 2 * count);
        for (let i = 0, at = wide.indexOf(plane), sum = 0; i < count; i++, at += 4) {
          sum += view.getUint16(2 * i, true);
          this.places[at] = sum;
        }
      } else {
        for (let i = 0, at = narrow.indexOf(plane); i < count; i++, at += 4) {
          this.values[at] = bytes[start + i];
        }
      }
      start += wide.includes(plane) ? 2 * count : count;
    }
  }

  countClasses(column) {
    const counts = new Uint32Array(256);
    for (let i = column; i < this.values.length; i += 4) counts[this.values[i]]++;
    return counts;
  }

  countWrong() {
    const counts = new Uint32Array(256);
    for (let i = 0; i < this.values.length; i += 4) {
      const truth = this.values[i + 1];
      if (truth !== NO_CLASS && truth !== this.values[i]) counts[truth]++;
    }
    return counts;
  }

  place(row) {
    return [0, 1, 2].map((axis) => this.low[axis] + this.step[axis] * this.places[4 * row + axis]);
  }

  // Everything the page knows of a point.
  describe(row) {
    const [label, truth, probability, intensity] = this.values.subarray(4 * row, 4 * row + 4);
    const place = this.place(row);
    const number = this.places[4 * row + 3];
    return {
      place,
      range: Math.hypot(...place),
      label,
      truth: this.has('truth') ? truth : null,
      probability: this.has('probability') && label !== NO_CLASS ? probability / 255 : null,
      intensity: this.intensity[0] + (this.intensity[1] - this.intensity[0]) * (intensity / 255),
      box: this.boxes.find((box) => box.number === number) || null,
    };
  }
}

// All scans of the page, those unpacked last kept ready.
class ScanShelf {
  constructor() {
    this.entries = []; // {facts, element}
    this.ready = new Map(); // index -> Scan or the promise of one, oldest first
  }

  get length() {
    return this.entries.length;
  }

  // Called as the page arrives, after the text of each scan.
  take(element) {
    const facts = JSON.parse(element.previousElementSibling.textContent);
    this.entries.push({ facts, element });
  }

  async open(index) {
    const found = this.ready.get(index) || this.unpack(index);
    this.ready.delete(index);
    this.ready.set(index, found);
    const scan = await found;
    this.trim(index);
    return scan;
  }

  async unpack(index) {
    const { facts, element } = this.entries[index];
    const stream = new Blob([fromBase64(element.textContent)]).stream();
    const inflated = stream.pipeThrough(new DecompressionStream('deflate'));
    return new Scan(facts, new Uint8Array(await new Response(inflated).arrayBuffer()));
  }

  trim(current) {
    let bytes = 0;
    for (const index of [...this.ready.keys()].reverse()) {
      bytes += 12 * this.entries[index].facts.count;
      if (bytes > KEPT_BYTES && index !== current) this.ready.delete(index);
    }
  }
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text.trim());
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
