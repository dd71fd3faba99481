// SPDX-License-Identifier: Apache-2.0
// The camera circles a target; it glides to where it was sent. z is up, matrices are by column.
'use strict';

const FIELD_OF_VIEW = (50 * Math.PI) / 180;
const NEAR_M = 0.2;
const FAR_M = 3000;
const TILT_LIMIT = Math.PI / 2 - 0.001;
const GLIDE_MS = 70;

const VIEWS = {
  home: { yaw: Math.PI, pitch: 0.5, distance: 46, target: [5, 0, 0] },
  top: { yaw: Math.PI, pitch: TILT_LIMIT, distance: 95, target: [0, 0, 0] },
  side: { yaw: -Math.PI / 2, pitch: 0.22, distance: 50, target: [0, 0, 0] },
  sensor: { yaw: Math.PI, pitch: 0.1, distance: 3, target: [0, 0, 0.3] },
};

class Camera {
  constructor(reduceMotion) {
    this.now = structuredClone(VIEWS.home);
    this.goal = structuredClone(VIEWS.home);
    this.reduceMotion = reduceMotion;
    this.aspect = 1;
  }

  // A view shows the same width of street in a narrow window.
  go(view) {
    const goal = structuredClone(view);
    if (this.aspect < 1) goal.distance *= Math.min(1 / this.aspect, 1.7);
    const turns = Math.round((this.now.yaw - goal.yaw) / (2 * Math.PI));
    goal.yaw += turns * 2 * Math.PI;
    this.goal = goal;
  }

  jump() {
    this.now = structuredClone(this.goal);
  }

  rotate(yaw, pitch) {
    this.goal.yaw -= yaw;
    this.goal.pitch = clamp(this.goal.pitch + pitch, -0.2, TILT_LIMIT);
  }

  // By shares of the window's height, in the plane of the screen.
  pan(right, up) {
    const scale = 2 * Math.tan(FIELD_OF_VIEW / 2) * this.goal.distance;
    const axes = this.axes(this.goal);
    for (let i = 0; i < 3; i++) {
      this.goal.target[i] += scale * (right * axes.right[i] + up * axes.up[i]);
    }
  }

  // Towards a point, where one is given: it stays under the finger.
  zoom(factor, towards) {
    const distance = clamp(this.goal.distance * factor, 0.8, 900);
    const share = 1 - distance / this.goal.distance;
    if (towards) {
      this.goal.target = this.goal.target.map((v, i) => v + share * (towards[i] - v));
    }
    this.goal.distance = distance;
  }

  lookAt(point) {
    this.goal.target = [...point];
    this.goal.distance = Math.min(this.goal.distance, 22);
  }

  // Moves on by so many milliseconds; whether there is still a way to go.
  advance(elapsed) {
    const share = this.reduceMotion ? 1 : 1 - Math.exp(-Math.min(elapsed, 50) / GLIDE_MS);
    const [now, goal] = [this.now, this.goal];
    const gap = Math.abs(goal.yaw - now.yaw) + Math.abs(goal.pitch - now.pitch)
      + Math.abs(Math.log(goal.distance / now.distance))
      + Math.hypot(...goal.target.map((v, i) => v - now.target[i])) / goal.distance;
    if (gap < 5e-4 || share === 1) {
      this.jump();
      return gap > 0 && share < 1;
    }
    now.yaw += share * (goal.yaw - now.yaw);
    now.pitch += share * (goal.pitch - now.pitch);
    now.distance *= (goal.distance / now.distance) ** share;
    now.target = now.target.map((v, i) => v + share * (goal.target[i] - v));
    return true;
  }

  axes(state = this.now) {
    const [cy, sy] = [Math.cos(state.yaw), Math.sin(state.yaw)];
    const [cp, sp] = [Math.cos(state.pitch), Math.sin(state.pitch)];
    return { back: [cp * cy, cp * sy, sp], right: [-sy, cy, 0], up: [-sp * cy, -sp * sy, cp] };
  }

  eye() {
    const { back } = this.axes();
    return this.now.target.map((v, i) => v + this.now.distance * back[i]);
  }

  // World to clip space.
  matrix() {
    const { back, right, up } = this.axes();
    const eye = this.eye();
    const rows = [right, up, back].map((axis) => [...axis, -dot(axis, eye)]);
    const tall = 1 / Math.tan(FIELD_OF_VIEW / 2);
    const wide = tall / this.aspect;
    const depth = (FAR_M + NEAR_M) / (NEAR_M - FAR_M);
    const offset = (2 * FAR_M * NEAR_M) / (NEAR_M - FAR_M);
    const matrix = new Float32Array(16);
    for (let column = 0; column < 4; column++) {
      const at = 4 * column;
      matrix[at] = wide * rows[0][column];
      matrix[at + 1] = tall * rows[1][column];
      matrix[at + 2] = depth * rows[2][column] + (column === 3 ? offset : 0);
      matrix[at + 3] = -rows[2][column];
    }
    return matrix;
  }

  // The place on a level plane under a spot of the window (-1..1), null where it sees the sky.
  hitPlane(x, y, height) {
    const { back, right, up } = this.axes();
    const scale = Math.tan(FIELD_OF_VIEW / 2);
    const ray = back.map((v, i) => -v + scale * (x * this.aspect * right[i] + y * up[i]));
    const eye = this.eye();
    const way = (height - eye[2]) / ray[2];
    if (!(way > 0) || way > 4 * this.now.distance) return null;
    return eye.map((v, i) => v + way * ray[i]);
  }
}

function project(matrix, [x, y, z]) {
  const at = (row) => matrix[row] * x + matrix[4 + row] * y + matrix[8 + row] * z
    + matrix[12 + row];
  const w = at(3);
  return w > NEAR_M ? [at(0) / w, at(1) / w, w] : null;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}
