// The roofline of a benchmark report as an SVG: GF/s over floating-point operations per byte, both logarithmic,
// under the roofs of memory bandwidth and arithmetic for every thread count.
'use strict'

const width = 900,
  height = 560
const left = 70,
  right = 190,
  top = 40,
  bottom = 55
const palette = ['#1b6ca8', '#c8553d', '#2f7d4f', '#8a5a9e', '#b0852a', '#3d8f8f', '#8c8c8c']

const escape = (s) =>
  String(s).replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c])

/** @param report what `auxgrad_bench --json` writes */
function roofline(report) {
  const points = report.results.filter((r) => r.flops > 0 && r.bytes > 0 && r.gflops > 0)
  const roofs = report.machine.byThreads
  const x = [0.1, 1000],
    peak = Math.max(...roofs.map((r) => r.fmaPeakGflops))
  const y = [1, 10 ** Math.ceil(Math.log10(peak * 1.1))]
  const scale =
    ([low, high], from, to) =>
    (v) =>
      from + ((to - from) * Math.log(Math.min(Math.max(v, low), high) / low)) / Math.log(high / low)
  const px = scale(x, left, width - right),
    py = scale(y, height - bottom, top)
  const groups = [...new Set(points.map((r) => r.group))]
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    `<text x="${left}" y="22" font-size="15">Roofline, ${escape(report.machine.isa)}</text>`,
  ]
  const line = (x1, y1, x2, y2, style) =>
    out.push(`<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" ${style}/>`)
  const text = (tx, ty, s, style = '') =>
    out.push(`<text x="${tx.toFixed(1)}" y="${ty.toFixed(1)}" ${style}>${escape(s)}</text>`)
  for (let v = x[0]; v <= x[1] * 1.001; v *= 10) {
    line(px(v), py(y[0]), px(v), py(y[1]), 'stroke="#ddd"')
    text(px(v), height - bottom + 18, String(Number(v.toPrecision(1))), 'text-anchor="middle"')
  }
  for (let v = y[0]; v <= y[1] * 1.001; v *= 10) {
    line(px(x[0]), py(v), px(x[1]), py(v), 'stroke="#ddd"')
    text(left - 8, py(v) + 4, String(v), 'text-anchor="end"')
  }
  text((left + width - right) / 2, height - 14, 'floating-point operations per byte', 'text-anchor="middle"')
  text(
    18,
    (top + height - bottom) / 2,
    'GF/s',
    `text-anchor="middle" transform="rotate(-90 18 ${(top + height - bottom) / 2})"`,
  )
  for (const r of roofs) {
    const knee = r.fmaPeakGflops / r.bandwidthGBs
    // The slanted roof enters the picture at its left or at its lower edge.
    const start = Math.max(x[0], y[0] / r.bandwidthGBs)
    line(px(start), py(start * r.bandwidthGBs), px(knee), py(r.fmaPeakGflops), 'stroke="#333"')
    line(px(knee), py(r.fmaPeakGflops), px(x[1]), py(r.fmaPeakGflops), 'stroke="#333"')
    text(
      px(x[1]) - 4,
      py(r.fmaPeakGflops) - 5,
      `${r.threads} thread${r.threads > 1 ? 's' : ''}, ${r.fmaPeakGflops.toFixed(0)} GF/s`,
      'text-anchor="end"',
    )
  }
  for (const r of points) {
    const colour = palette[groups.indexOf(r.group) % palette.length]
    const fill = r.threads > 1 ? 'white' : colour
    out.push(
      `<circle cx="${px(r.flops / r.bytes).toFixed(1)}" cy="${py(r.gflops).toFixed(1)}" r="4" fill="${fill}" stroke="${colour}">` +
        `<title>${escape(`${r.group}: ${r.name}, ${r.threads} thread(s): ${r.gflops.toFixed(1)} GF/s`)}</title></circle>`,
    )
  }
  groups.forEach((g, i) => {
    out.push(
      `<circle cx="${width - right + 22}" cy="${top + 10 + 20 * i}" r="4" fill="${palette[i % palette.length]}"/>`,
    )
    text(width - right + 32, top + 14 + 20 * i, g)
  })
  text(width - right + 18, top + 24 + 20 * groups.length, 'filled: 1 thread', 'fill="#666"')
  out.push('</svg>')
  return `${out.join('\n')}\n`
}

module.exports = { roofline }
