// SPDX-License-Identifier: Apache-2.0
// Colours: the label table's own, calmed for a dark or a light background, and ramps for numbers.
'use strict';

const NO_CLASS = 255;

// OKLab (Ottosson 2020): equal steps look equal, so that one limit calms every hue alike.
function toOklab(rgb) {
  const [r, g, b] = rgb.map((v) => {
    const c = v / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromOklab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((c) => {
    const v = c <= 0.0031308 ? 12.92 * c : 1.055 * Math.max(c, 0) ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(Math.max(v, 0), 1));
  });
}

// Surfaces step back and movable things stand out: the limit of the chroma is by what a class is.
const CHROMA = { surface: 0.085, structure: 0.12, movable: 0.19 };
const LIGHTNESS = {
  dark: { surface: [0.34, 0.74], structure: [0.36, 0.88], movable: [0.42, 0.92] },
  light: { surface: [0.4, 0.78], structure: [0.36, 0.7], movable: [0.36, 0.68] },
};

// The same hue, less loud, and neither drowned in the background nor glaring on it.
function calm(rgb, theme, sort) {
  const [low, high] = LIGHTNESS[theme][sort];
  const [lightness, a, b] = toOklab(rgb);
  const chroma = Math.hypot(a, b);
  const scale = chroma > CHROMA[sort] ? CHROMA[sort] / chroma : 1;
  return fromOklab([low + (high - low) * lightness, a * scale, b * scale]);
}

function lch(lightness, chroma, hue) {
  return fromOklab([lightness, chroma * Math.cos(hue), chroma * Math.sin(hue)]);
}

const THEMES = {
  dark: {
    wrong: [255, 92, 82], right: [92, 108, 132], unknown: [62, 68, 79], nothing: [78, 86, 100],
    line: [148, 163, 190], ramp: [[60, 64, 120], [46, 110, 158], [46, 160, 150], [130, 200, 110],
      [248, 226, 110]],
  },
  light: {
    wrong: [217, 45, 40], right: [150, 162, 180], unknown: [205, 210, 218],
    nothing: [186, 193, 204], line: [96, 108, 130],
    ramp: [[236, 190, 60], [120, 178, 84], [30, 146, 140], [44, 96, 156], [58, 44, 110]],
  },
};

function sampleRamp(anchors, share) {
  const place = Math.min(Math.max(share, 0), 1) * (anchors.length - 1);
  const index = Math.min(Math.floor(place), anchors.length - 2);
  const [low, high] = [toOklab(anchors[index]), toOklab(anchors[index + 1])];
  return fromOklab(low.map((v, i) => v + (high[i] - v) * (place - index)));
}

// Neighbouring numbers get hues far apart.
function colourNumber(number, theme) {
  const hue = number * 2.39996323;
  const lightness = (theme === 'dark' ? 0.72 : 0.56) + 0.06 * Math.sin(number * 1.7);
  return lch(lightness, 0.14, hue);
}

// 256 x 4 texels that the point shader looks up: classes, ramp, instances, the rest.
// The alpha of a class says whether it is shown.
function buildColourTable(palette, hidden, theme) {
  const texels = new Uint8Array(256 * 4 * 4);
  const put = (row, column, rgb, alpha) => texels.set([...rgb, alpha], (row * 256 + column) * 4);
  const look = THEMES[theme];
  for (let i = 0; i < 256; i++) {
    const rgb = i < palette.length ? palette[i] : look.unknown;
    put(0, i, rgb, hidden.has(i) ? 0 : 255);
    put(1, i, sampleRamp(look.ramp, i / 255), 255);
    put(2, i, i ? colourNumber(i, theme) : look.nothing, 255);
  }
  [look.right, look.wrong, look.unknown].forEach((rgb, i) => put(3, i, rgb, 255));
  return texels;
}

function css(rgb, alpha = 1) {
  return `rgba(${rgb[0]}, ${rgb[1]}, ${rgb[2]}, ${alpha})`;
}
