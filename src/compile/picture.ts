import type { Plan, PlannedBlock } from './plan'
import { showBytes } from './bytes'
import { byteTicks, escape, line, palette, pixels, svg, text } from './svg'

const [width, height] = [1000, 520]
const margin = { left: 90, right: 20, top: 70, bottom: 40 }

const [blue, vermilion, green, , orange, sky] = palette
const colours: Record<PlannedBlock['kind'], string> = {
  kept: blue,
  staging: green,
  forward: sky,
  backward: orange,
  update: vermilion,
  workspace: '#b0b0b0',
}
/** Kinds on which words can be read, which are white. */
const deep: readonly string[] = ['kept', 'staging', 'update']

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
    // Edges are drawn where there is room for them: of thousands of thin blocks they would hide the colour.
    const edge = y(b.offset) - y(b.offset + b.bytes) > 4 && x(b.to + 1) - x(b.from) > 4 ? ' class="edge"' : ''
    return `<rect ${place} ${size} fill="${colours[b.kind]}"${edge}><title>${escape(title)}</title></rect>`
  }
  // What is not a tenth of a pixel high shows nothing and cannot be pointed at.
  const drawn = (b: PlannedBlock): boolean => Number(pixels(y(b.offset) - y(b.offset + b.bytes))) > 0
  // The name of a block that has room for it, in a size of 11.
  const name = (b: PlannedBlock): string => {
    const words = b.layer || b.op
    const [left, top] = [x(b.from), y(b.offset + b.bytes)]
    if (!deep.includes(b.kind) || y(b.offset) - top < 14 || x(b.to + 1) - left < 6.5 * words.length + 12) return ''
    return text(left + 6, (y(b.offset) + top) / 2 + 4, words, 'class="on" font-size="11" pointer-events="none"')
  }
  const legend = Object.entries(colours)
    .filter(([kind]) => blocks.some((b) => b.kind === kind))
    .map(([kind, colour], i) => {
      const at = margin.left + 110 * i
      return `<rect x="${at}" y="34" width="12" height="12" fill="${colour}"/>${text(at + 17, 44, kind)}`
    })
  const scale = byteTicks(arenaBytes).flatMap(({ at, words }) => [
    line(margin.left, y(at), right, y(at), 'class="grid"'),
    text(margin.left - 8, y(at) + 4, words, 'text-anchor="end"'),
  ])
  const marks: string[] = []
  const border = ops.findIndex((op) => op.phase !== 'forward')
  if (border > 0)
    marks.push(
      line(x(border), margin.top, x(border), bottom, 'class="mark" stroke-dasharray="4 3"'),
      text(x(border) - 6, bottom + 16, 'forward', 'text-anchor="end"'),
      text(x(border) + 6, bottom + 16, 'backward and update'),
    )
  const { step: peak, live } = fullestStep(blocks, steps)
  if (ops[peak])
    marks.push(
      line(x(peak + 0.5), margin.top - 6, x(peak + 0.5), margin.top, 'class="mark" stroke-width="2"'),
      text(
        x(peak + 0.5),
        margin.top - 9,
        `most at step ${peak}, ${showBytes(live)}: ${[ops[peak].layer, ops[peak].op].filter(Boolean).join(' ')}`,
        `text-anchor="${peak > steps / 2 ? 'end' : 'start'}"`,
      ),
    )
  const outside = `parameters ${showBytes(bytes.parameters)}, optimizer ${showBytes(bytes.optimizer)}`
  return svg(width, height, [
    '<style>rect.edge { stroke: white; stroke-width: 0.5 }</style>',
    text(
      margin.left,
      22,
      `Arena ${showBytes(arenaBytes)}; ${outside}; in all ${showBytes(bytes.total)}`,
      'font-size="15"',
    ),
    ...legend,
    ...scale,
    ...blocks.filter(drawn).map(box),
    ...blocks.map(name).filter(Boolean),
    ...marks,
    text((margin.left + right) / 2, height - 6, `${ops.length} kernel calls`, 'text-anchor="middle"'),
  ])
}

/** The step at which most bytes are alive. */
function fullestStep(blocks: readonly PlannedBlock[], steps: number): { step: number; live: number } {
  const live = new Float64Array(steps + 1)
  for (const b of blocks) for (let step = b.from; step <= Math.min(b.to, steps); step++) live[step] += b.bytes
  const most = live.reduce((a, b) => Math.max(a, b), 0)
  return { step: live.indexOf(most), live: most }
}
