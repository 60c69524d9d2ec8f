// The roofline of a benchmark report as an SVG: GF/s over floating-point operations per byte, both logarithmic, under
// the roofs of memory bandwidth and multiply-adds for every thread count; below it, what only moves memory, in GB/s. Needs
// dist/ (npm run build:all), for the pieces that all pictures are made of.
'use strict'
const svg = require('../dist/compile/svg')

const width = 900,
  height = 560,
  rowHeight = 16
const left = 70,
  right = 190,
  top = 40,
  bottom = 55,
  names = 180 // pixels for those of the lower panel
const { escape, palette } = svg
const halo = 'stroke="white" stroke-width="4" paint-order="stroke"'

/** 1, 2, 5, 10, 20, .. from the last one at or below `low` to the first at or above `high`. */
function ticks(low, high) {
  const list = []
  for (let decade = 10 ** Math.floor(Math.log10(low)); !(list.at(-1) >= high); decade *= 10)
    for (const digit of [1, 2, 5])
      if (digit * decade * (digit === 2 ? 2.5 : 2) > low && !(list.at(-1) >= high)) list.push(digit * decade)
  return list
}

const threadsOf = (n) => `${n} thread${n > 1 ? 's' : ''}`

/** @param report what `auxgrad_bench --json` writes */
function roofline(report) {
  const points = report.results.filter((r) => r.flops > 0 && r.bytes > 0 && r.gflops > 0)
  const moves = report.results.filter((r) => !r.flops && r.gbs > 0)
  const rows = [...new Set(moves.map((r) => r.name))]
  const roofs = report.machine.byThreads
  const total = height + (rows.length ? rows.length * rowHeight + 90 : 0)
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${total}" viewBox="0 0 ${width} ${total}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${total}" fill="white"/>`,
  ]
  const line = (x1, y1, x2, y2, stroke) => out.push(svg.line(x1, y1, x2, y2, `stroke="${stroke}"`))
  const text = (...words) => out.push(svg.text(...words))
  const dot = (x, y, colour, filled, title) =>
    out.push(
      `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="4" fill="${filled ? colour : 'white'}" stroke="${colour}">` +
        `${title ? `<title>${escape(title)}</title>` : ''}</circle>`,
    )

  const intensity = points.map((r) => r.flops / r.bytes)
  const xs = ticks(Math.min(1, ...intensity), Math.max(100, ...intensity))
  const speeds = [...points.map((r) => r.gflops), ...roofs.map((r) => 1.3 * r.fmaPeakGflops)]
  const ys = ticks(Math.min(...speeds), Math.max(...speeds))
  const scale = (list, from, to) => (v) =>
    from + ((to - from) * Math.log(v / list[0])) / Math.log(list.at(-1) / list[0])
  const px = scale(xs, left, width - right),
    py = scale(ys, height - bottom, top)
  text(left, 22, `Roofline, ${report.machine.isa}`, 'font-size="15"')
  for (const v of xs) {
    line(px(v), py(ys[0]), px(v), top, '#ddd')
    text(px(v), height - bottom + 18, String(Number(v.toPrecision(1))), 'text-anchor="middle"')
  }
  for (const v of ys) {
    line(left, py(v), width - right, py(v), '#ddd')
    text(left - 8, py(v) + 4, String(Number(v.toPrecision(1))), 'text-anchor="end"')
  }
  text((left + width - right) / 2, height - 14, 'floating-point operations per byte', 'text-anchor="middle"')
  const middle = (top + height - bottom) / 2
  text(18, middle, 'GF/s', `text-anchor="middle" transform="rotate(-90 18 ${middle})"`)
  for (const r of roofs) {
    const knee = r.fmaPeakGflops / r.bandwidthGBs
    // The slanted roof enters the picture at its left or at its lower edge.
    const start = Math.max(xs[0], ys[0] / r.bandwidthGBs)
    if (start < knee) line(px(start), py(start * r.bandwidthGBs), px(knee), py(r.fmaPeakGflops), '#333')
    line(px(Math.max(knee, xs[0])), py(r.fmaPeakGflops), width - right, py(r.fmaPeakGflops), '#333')
  }
  const groups = [...new Set(points.map((r) => r.group))]
  const colourOf = (group) => palette[groups.indexOf(group) % palette.length]
  for (const r of points)
    dot(
      px(r.flops / r.bytes),
      py(r.gflops),
      colourOf(r.group),
      r.threads === 1,
      `${r.group}: ${r.name}, ${threadsOf(r.threads)}: ${r.gflops.toFixed(1)} GF/s`,
    )
  for (const r of roofs)
    text(
      width - right - 4,
      py(r.fmaPeakGflops) - 5,
      `multiply-adds, ${threadsOf(r.threads)}: ${r.fmaPeakGflops.toFixed(0)} GF/s`,
      `text-anchor="end" ${halo}`,
    )
  groups.forEach((g, i) => {
    dot(width - right + 22, top + 10 + 20 * i, colourOf(g), true)
    text(width - right + 32, top + 14 + 20 * i, g)
  })
  text(width - right + 18, top + 24 + 20 * groups.length, 'filled: 1 thread', 'fill="#666"')

  if (rows.length) {
    const start = height + 40,
      end = start + rows.length * rowHeight
    const most = Math.max(...moves.map((r) => r.gbs), ...roofs.map((r) => 1.1 * r.bandwidthGBs))
    const bx = (v) => left + names + ((width - right - left - names) * v) / most
    text(left, height + 16, 'Memory-bound kernels, under the bandwidth beyond all caches', 'font-size="15"')
    for (let v = 0; v <= most; v += 10) {
      line(bx(v), start, bx(v), end, '#ddd')
      text(bx(v), end + 18, String(v), 'text-anchor="middle"')
    }
    text((bx(0) + width - right) / 2, end + 36, 'GB/s of the bytes they must move', 'text-anchor="middle"')
    roofs.forEach((r, i) => {
      line(bx(r.bandwidthGBs), start - 4, bx(r.bandwidthGBs), end, '#333')
      text(
        bx(r.bandwidthGBs) + (i ? 4 : -4), // away from each other, however close the lines are
        start - 8,
        `${threadsOf(r.threads)}: ${r.bandwidthGBs.toFixed(1)}`,
        `text-anchor="${i ? 'start' : 'end'}"`,
      )
    })
    rows.forEach((name, i) => text(left + names - 8, start + rowHeight * (i + 0.5) + 4, name, 'text-anchor="end"'))
    for (const r of moves)
      dot(
        bx(r.gbs),
        start + rowHeight * (rows.indexOf(r.name) + 0.5),
        palette[0],
        r.threads === 1,
        `${r.name}, ${threadsOf(r.threads)}: ${r.gbs.toFixed(1)} GB/s`,
      )
  }
  out.push('</svg>')
  return `${out.join('\n')}\n`
}

module.exports = { roofline }
