import type { Plan, PlannedBlock } from './plan'
import { showBytes } from './bytes'

const [width, height] = [1000, 520]
const margin = { left: 90, right: 20, top: 70, bottom: 40 }

const colours: Record<PlannedBlock['kind'], string> = {
  kept: '#1b6ca8',
  staging: '#2f7d4f',
  forward: '#9cc3dd',
  backward: '#e3a18f',
  update: '#c9b26a',
  workspace: '#c4c4c4',
}

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!)

const pixels = (n: number): string => n.toFixed(1)
const text = (x: number, y: number, words: string, style = ''): string =>
  `<text x="${pixels(x)}" y="${pixels(y)}" ${style}>${escape(words)}</text>`
const line = (x1: number, y1: number, x2: number, y2: number, style: string): string =>
  `<line x1="${pixels(x1)}" y1="${pixels(y1)}" x2="${pixels(x2)}" y2="${pixels(y2)}" ${style}/>`

/** The arena of a plan as an SVG: steps from left to right, bytes from bottom to top. */
export function picture({ blocks, ops, arenaBytes, bytes }: Plan): string {
  const right = width - margin.right
  const bottom = height - margin.bottom
  const steps = Math.max(1, ops.length)
  const x = (step: number): number => margin.left + ((right - margin.left) * Math.min(step, steps)) / steps
  const y = (at: number): number => bottom - ((bottom - margin.top) * at) / Math.max(1, arenaBytes)

  const box = (b: PlannedBlock): string => {
    const what = [b.layer, b.op].filter(Boolean).join(' ')
    const title = `${what}, ${b.kind}: ${showBytes(b.bytes)}, steps ${b.from} to ${b.to}`
    const size = `width="${pixels(x(b.to + 1) - x(b.from))}" height="${pixels(y(b.offset) - y(b.offset + b.bytes))}"`
    const place = `x="${pixels(x(b.from))}" y="${pixels(y(b.offset + b.bytes))}"`
    return `<rect ${place} ${size} fill="${colours[b.kind]}"><title>${escape(title)}</title></rect>`
  }
  const legend = Object.entries(colours)
    .filter(([kind]) => blocks.some((b) => b.kind === kind))
    .map(([kind, colour], i) => {
      const at = margin.left + 110 * i
      return `<rect x="${at}" y="34" width="12" height="12" fill="${colour}"/>${text(at + 17, 44, kind)}`
    })
  const scale = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => {
    const at = Math.round(part * arenaBytes)
    return [
      line(margin.left, y(at), right, y(at), 'stroke="#ddd"'),
      text(margin.left - 8, y(at) + 4, showBytes(at), 'text-anchor="end"'),
    ]
  })
  const marks: string[] = []
  const border = ops.findIndex((op) => op.phase !== 'forward')
  if (border > 0)
    marks.push(
      line(x(border), margin.top, x(border), bottom, 'stroke="#333" stroke-dasharray="4 3"'),
      text(x(border) - 6, bottom + 16, 'forward', 'text-anchor="end"'),
      text(x(border) + 6, bottom + 16, 'backward and update'),
    )
  const peak = fullestStep(blocks, steps)
  if (ops[peak])
    marks.push(
      line(x(peak + 0.5), margin.top - 6, x(peak + 0.5), margin.top, 'stroke="#333" stroke-width="2"'),
      text(
        x(peak + 0.5),
        margin.top - 9,
        `most at step ${peak}: ${[ops[peak].layer, ops[peak].op].filter(Boolean).join(' ')}`,
        `text-anchor="${peak > steps / 2 ? 'end' : 'start'}"`,
      ),
    )
  const outside = `parameters ${showBytes(bytes.parameters)}, optimizer ${showBytes(bytes.optimizer)}`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    text(
      margin.left,
      22,
      `Arena ${showBytes(arenaBytes)}; ${outside}; in all ${showBytes(bytes.total)}`,
      'font-size="15"',
    ),
    ...legend,
    ...scale,
    '<g stroke="white" stroke-width="0.5">',
    ...blocks.map(box),
    '</g>',
    ...marks,
    text((margin.left + right) / 2, height - 6, `${ops.length} kernel calls`, 'text-anchor="middle"'),
    '</svg>',
    '',
  ].join('\n')
}

/** The step at which most bytes are alive. */
function fullestStep(blocks: readonly PlannedBlock[], steps: number): number {
  const live = new Float64Array(steps + 1)
  for (const b of blocks) for (let step = b.from; step <= Math.min(b.to, steps); step++) live[step] += b.bytes
  return live.indexOf(Math.max(...live))
}
