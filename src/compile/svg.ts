import { showBytes } from './bytes'

// Pieces of pictures, as text. Colours are those of Okabe & Ito, which the colour-blind can tell apart; what is not data is
// named by class, and light or dark as the reader has it.

/** Data colours, in the order in which they are used. */
export const palette = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f7f7f'] as const

const dark = `.paper { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } .mark { stroke: #b0b8c0 }`
const style = `<style>
.paper { fill: white } text { fill: #1f2328 } .grid { stroke: #d8dee4 } .mark { stroke: #333 } text.on { fill: white }
@media (prefers-color-scheme: dark) { ${dark} text.on { fill: white } }
</style>`

export const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!)

export const pixels = (n: number): string => n.toFixed(1).replace('.0', '')
export const text = (x: number, y: number, words: string, attributes = ''): string =>
  `<text x="${pixels(x)}" y="${pixels(y)}"${attributes && ` ${attributes}`}>${escape(words)}</text>`
export const line = (x1: number, y1: number, x2: number, y2: number, attributes: string): string =>
  `<line x1="${pixels(x1)}" y1="${pixels(y1)}" x2="${pixels(x2)}" y2="${pixels(y2)}" ${attributes}/>`

/** A picture of its own, on paper. */
export const svg = (width: number, height: number, parts: readonly string[]): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    style,
    `<rect class="paper" width="${width}" height="${height}"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n')

/** Round numbers from `low` to `high`, about `count` of them, in steps of 1, 2 or 5 times a power of ten. */
export function ticks(low: number, high: number, count = 5): number[] {
  const rough = (high - low) / count
  if (!(rough > 0)) return [low]
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * [1, 2, 5, 10].find((n) => n * power >= rough * 0.999)!
  const first = Math.ceil(low / step - 1e-9)
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step)
}

/** Round numbers of bytes up to `high`, in its unit. */
export function byteTicks(high: number): { at: number; words: string }[] {
  const unit = [1024 ** 3, 1024 ** 2, 1024].find((size) => high >= size) ?? 1
  return ticks(0, high / unit).map((n) => ({
    at: n * unit,
    words: n ? showBytes(n * unit).replace(/\.?0+ (?=.iB)/, ' ') : '0',
  }))
}
