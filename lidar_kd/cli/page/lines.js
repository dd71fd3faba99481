// SPDX-License-Identifier: Apache-2.0
// What is drawn as lines: rings around the sensor, the sensor itself, boxes of objects.
'use strict';

const LINE_FLOATS = 8; // from, to, colour (4 bytes), width
const RING_PARTS = 120;

class LineList {
  constructor() {
    this.numbers = [];
    this.colours = [];
  }

  add(from, to, [r, g, b], alpha, width) {
    this.numbers.push(...from, ...to, 0, width);
    this.colours.push(r, g, b, Math.round(255 * alpha));
  }

  pack() {
    const floats = new Float32Array(this.numbers);
    const bytes = new Uint8Array(floats.buffer);
    for (let i = 0; i < this.colours.length / 4; i++) {
      bytes.set(this.colours.slice(4 * i, 4 * i + 4), 4 * (LINE_FLOATS * i + 6));
    }
    return { data: floats, count: floats.length / LINE_FLOATS };
  }
}

function chooseRings(reach) {
  const step = [5, 10, 20, 25, 50].find((each) => 5 * each >= reach) || 100;
  return [1, 2, 3, 4, 5].map((i) => i * step);
}

function addRings(list, rings, ground, colour) {
  for (const radius of rings) {
    for (let i = 0; i < RING_PARTS; i++) {
      const ends = [i, i + 1].map((part) => {
        const angle = (2 * Math.PI * part) / RING_PARTS;
        return [radius * Math.cos(angle), radius * Math.sin(angle), ground];
      });
      list.add(...ends, colour, 0.3, 1);
    }
  }
  const far = rings[rings.length - 1];
  for (const [x, y] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    list.add([0, 0, ground], [far * x, far * y, ground], colour, 0.16, 1);
  }
}

// Axes as everywhere in robotics: x red, y green, z blue, half a metre each.
function addSensor(list, ground) {
  list.add([0, 0, ground], [0, 0, 0], [150, 160, 178], 0.6, 1);
  list.add([0, 0, 0], [1, 0, 0], [235, 87, 87], 1, 2.5);
  list.add([0, 0, 0], [0, 1, 0], [82, 196, 118], 1, 2.5);
  list.add([0, 0, 0], [0, 0, 1], [86, 140, 245], 1, 2.5);
}

function cornersOf({ centre, size, yaw }) {
  const [cos, sin] = [Math.cos(yaw), Math.sin(yaw)];
  return Array.from({ length: 8 }, (_, i) => {
    const [x, y, z] = [1, 2, 4].map((bit, axis) => (i & bit ? 0.5 : -0.5) * size[axis]);
    return [centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos, centre[2] + z];
  });
}

// What is doubtful is faint.
function addBox(list, box, colour, emphasised) {
  const corners = cornersOf(box);
  const alpha = emphasised ? 1 : 0.3 + 0.6 * clamp((box.confidence - 0.4) / 0.5, 0, 1);
  for (let i = 0; i < 8; i++) {
    for (const bit of [1, 2, 4]) {
      if (i & bit) continue;
      list.add(corners[i], corners[i | bit], colour, alpha, emphasised ? 3 : 1.5);
    }
  }
}
