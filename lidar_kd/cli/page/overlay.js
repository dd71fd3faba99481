// SPDX-License-Identifier: Apache-2.0
// Letters and marks over the picture.
'use strict';

const LABEL_COLOURS = { dark: ['#8d96a6', '#0e1116'], light: ['#626d7f', '#f4f5f8'] };

class Overlay {
  constructor(canvas, density) {
    this.canvas = canvas;
    this.pen = canvas.getContext('2d');
    this.density = density;
  }

  clear() {
    this.pen.setTransform(1, 0, 0, 1, 0, 0);
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.pen.setTransform(this.density, 0, 0, this.density, 0, 0);
  }

  // From clip space to the window; null behind the camera.
  place(seen) {
    if (!seen) return null;
    const { clientWidth, clientHeight } = this.canvas;
    return [((seen[0] + 1) / 2) * clientWidth, ((1 - seen[1]) / 2) * clientHeight];
  }

  label(seen, text, theme) {
    const at = this.place(seen);
    if (!at) return;
    const { pen } = this;
    pen.font = '500 11px Inter, system-ui, sans-serif';
    pen.textAlign = 'center';
    pen.textBaseline = 'middle';
    const width = pen.measureText(text).width + 10;
    [pen.strokeStyle, pen.fillStyle] = LABEL_COLOURS[theme];
    pen.globalAlpha = 0.8;
    pen.beginPath();
    pen.roundRect(at[0] - width / 2, at[1] - 8, width, 16, 5);
    pen.fill();
    pen.globalAlpha = 1;
    pen.fillStyle = pen.strokeStyle;
    pen.fillText(text, ...at);
  }

  mark(seen, colour) {
    const at = this.place(seen);
    if (!at) return;
    const { pen } = this;
    pen.beginPath();
    pen.arc(...at, 7, 0, 2 * Math.PI);
    pen.lineWidth = 2;
    pen.strokeStyle = colour;
    pen.stroke();
  }
}

function prepareOverlay(canvas, width, height, density) {
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  return new Overlay(canvas, density);
}
