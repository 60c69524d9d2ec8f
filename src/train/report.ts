import type { Plan } from '../compile'
import { showBytes } from '../compile/bytes'
import { escape, line, palette, pixels, svg, text, ticks } from '../compile/svg'
import { expectOptions, fail } from '../errors'
import { History } from './history'

/** A training run in a report. */
export interface Run {
  /** What it is called there. */
  name: string
  /** The numbers that are drawn. */
  history?: History
  /** The plan of its step: its bytes, what is kept, and the arena are shown. */
  plan?: Plan
  /** Lines of the table that compares runs: `{ 'test accuracy': '99.1 %' }`. */
  facts?: Readonly<Record<string, string | number>>
}

const [width, height] = [560, 300]
const margin = { left: 62, right: 14, top: 34, bottom: 34 }
/** Points of a curve; each stands for the steps around it. */
const points = 240
/** Curves that are told apart in one picture. */
const most = 8

const brief = (n: number): string =>
  n === 0 || (Math.abs(n) >= 1e-3 && Math.abs(n) < 1e5)
    ? String(Number(n.toPrecision(4)))
    : n.toExponential(2).replace(/\.?0+e\+?/, 'e')

interface Curve {
  name: string
  /** Means, with the lowest and highest of the steps that each is of. */
  at: { step: number; mean: number; low: number; high: number }[]
  last: number
  lowest: number
  highest: number
  /** Values that are no numbers, and the step of the first. */
  lost: number
  firstLost: number
}

/** What is drawn of a series. */
function curve(name: string, steps: readonly number[], values: readonly number[]): Curve {
  const c: Curve = {
    name,
    at: [],
    last: values.at(-1) ?? NaN,
    lowest: Infinity,
    highest: -Infinity,
    lost: 0,
    firstLost: -1,
  }
  const span = Math.max(1, Math.ceil(values.length / points))
  for (let first = 0; first < values.length; first += span) {
    let [sum, count, low, high, where] = [0, 0, Infinity, -Infinity, 0]
    for (let i = first; i < Math.min(first + span, values.length); i++) {
      if (!Number.isFinite(values[i])) {
        if (!c.lost++) c.firstLost = steps[i]
        continue
      }
      sum += values[i]
      where += steps[i]
      count++
      low = Math.min(low, values[i])
      high = Math.max(high, values[i])
    }
    if (count) c.at.push({ step: where / count, mean: sum / count, low, high })
    c.lowest = Math.min(c.lowest, low)
    c.highest = Math.max(c.highest, high)
  }
  return c
}

const dashes = ['', '7 3', '2 3', '9 3 2 3']

/** Curves over the steps, with their last and lowest values in words. */
function chart(title: string, all: readonly Curve[]): string {
  const curves = all.slice(0, most)
  const drawn = curves.filter((c) => c.at.length)
  const low = Math.min(...drawn.map((c) => c.lowest))
  const high = Math.max(...drawn.map((c) => c.highest))
  // Where most of a curve would lie flat on the ground.
  const means = drawn.flatMap((c) => c.at.map((p) => p.mean)).sort((a, b) => a - b)
  const log = low > 0 && high / low > 50 && means[means.length >> 1] < high / 20
  const scale = log ? Math.log10 : (v: number): number => v
  const pad = (scale(high) - scale(low)) * 0.04 || Math.abs(scale(high)) * 0.1 || 1
  const [bottom, top] = [scale(low) - pad, scale(high) + pad]
  const first = Math.min(...drawn.map((c) => c.at[0].step))
  const last = Math.max(first + 1, ...drawn.map((c) => c.at.at(-1)!.step))
  const x = (step: number): number =>
    margin.left + ((width - margin.left - margin.right) * (step - first)) / (last - first)
  const y = (v: number): number =>
    height - margin.bottom - ((height - margin.top - margin.bottom) * (scale(v) - bottom)) / (top - bottom)
  const powers = Array.from({ length: Math.ceil(top) - Math.floor(bottom) + 1 }, (_, i) => Math.floor(bottom) + i)
  const marks = log
    ? powers
        .filter((power) => power % Math.ceil(powers.length / 8) === 0)
        .map((power) => 10 ** power)
        .filter((v) => scale(v) >= bottom && scale(v) <= top)
    : ticks(bottom, top)
  const parts = [
    text(margin.left, 20, log ? `${title} (log scale)` : title, 'font-size="15"'),
    ...marks.flatMap((v) => [
      line(margin.left, y(v), width - margin.right, y(v), 'class="grid"'),
      text(margin.left - 6, y(v) + 4, brief(v), 'text-anchor="end"'),
    ]),
    ...ticks(first, last, 6)
      .filter(Number.isInteger)
      .map((step) => text(x(step), height - margin.bottom + 16, brief(step), 'text-anchor="middle"')),
    text(width - margin.right, height - 4, 'step', 'text-anchor="end"'),
  ]
  curves.forEach((c, i) => {
    if (!c.at.length) return
    const colour = palette[i % palette.length]
    const dash = dashes[Math.floor(i / palette.length) + (i % 2 ? 1 : 0)]
    const along = (of: (p: Curve['at'][0]) => number): string[] =>
      c.at.map((p) => `${pixels(x(p.step))},${pixels(y(of(p)))}`)
    if (c.at.some((p) => p.low < p.high))
      parts.push(
        `<polygon points="${[...along((p) => p.high), ...along((p) => p.low).reverse()].join(' ')}" fill="${colour}" opacity="0.15"/>`,
      )
    parts.push(
      c.at.length > 1
        ? `<polyline points="${along((p) => p.mean).join(' ')}" fill="none" stroke="${colour}" stroke-width="1.8" stroke-linejoin="round" stroke-dasharray="${dash}"><title>${escape(c.name)}</title></polyline>`
        : `<circle cx="${pixels(x(c.at[0].step))}" cy="${pixels(y(c.at[0].mean))}" r="3" fill="${colour}"/>`,
    )
  })
  const key = curves.map((c, i) => {
    const lost = c.lost ? `; <strong>${c.lost} not finite, first at step ${c.firstLost}</strong>` : ''
    const swatch = `<i style="background:${palette[i % palette.length]}"></i>`
    return `<li>${swatch}${escape(c.name)}: last ${brief(c.last)}, lowest ${brief(c.lowest)}, highest ${brief(c.highest)}${lost}</li>`
  })
  if (all.length > most) key.push(`<li>and ${all.length - most} more, not drawn</li>`)
  const picture = drawn.length ? svg(width, height, parts) : `<h3>${escape(title)}</h3>\n`
  return `<figure>\n${picture}<figcaption><ul>${key.join('')}</ul></figcaption></figure>`
}

/** One chart for a number of all runs; of a group with several numbers, one a run. */
function charts(runs: readonly Run[]): string[] {
  const groups = new Map<string, Set<string>>()
  for (const { history } of runs)
    for (const name of history?.series.keys() ?? []) {
      const group = name.includes('/') ? name.slice(0, name.indexOf('/')) : name
      groups.set(group, (groups.get(group) ?? new Set()).add(name))
    }
  const curveOf = (run: Run, name: string, as: string): Curve[] => {
    const series = run.history?.series.get(name)
    return series ? [curve(as, series.steps, series.values)] : []
  }
  return [...groups].flatMap(([group, names]) => {
    if (names.size === 1) {
      const [name] = names
      return [
        chart(
          name,
          runs.flatMap((run) => curveOf(run, name, run.name)),
        ),
      ]
    }
    return runs.flatMap((run) => {
      const curves = [...names].flatMap((name) => curveOf(run, name, name.slice(group.length + 1)))
      return curves.length ? [chart(runs.length > 1 ? `${group} of ${run.name}` : group, curves)] : []
    })
  })
}

const row = (cells: readonly string[], tag = 'td'): string =>
  `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join('')}</tr>`

function comparison(runs: readonly Run[]): string {
  const lines = new Map<string, string[]>()
  runs.forEach(({ facts = {}, plan }, i) => {
    const bytes = Object.entries(plan?.bytes ?? {}).map(([kind, n]) => [`${kind} (planned)`, showBytes(n)] as const)
    for (const [name, value] of [...Object.entries(facts), ...bytes]) {
      const cells = lines.get(name) ?? runs.map(() => '')
      lines.set(name, cells)
      cells[i] = escape(typeof value === 'number' ? brief(value) : String(value))
    }
  })
  if (!lines.size) return ''
  const rows = [...lines].map(([name, cells]) => row([escape(name), ...cells]))
  return `<table class="numbers">\n${row(['', ...runs.map((run) => escape(run.name))], 'th')}\n${rows.join('\n')}\n</table>`
}

/** What backward keeps, by layer and policy, the most first. */
function keptBy({ kept }: Plan): string {
  const sums = new Map<string, { layer: string; policy: string; bytes: number }>()
  for (const { layer, policy, bytes } of kept) {
    const key = JSON.stringify([layer, policy])
    const sum = sums.get(key) ?? { layer, policy, bytes: 0 }
    sums.set(key, sum)
    sum.bytes += bytes
  }
  const sorted = [...sums.values()].sort((a, b) => b.bytes - a.bytes)
  if (!sorted.length) return '<p>Backward keeps nothing.</p>'
  const shown = sorted.slice(0, 40)
  const policies = [...new Set(sorted.map((k) => k.policy))]
  const rows = shown.map(({ layer, policy, bytes }) => {
    const colour = palette[policies.indexOf(policy) % palette.length]
    const share = ((100 * bytes) / shown[0].bytes).toFixed(1)
    const bar = `<div style="width:${share}%;background:${colour}"></div>`
    return row([escape(layer || '(outside of layers)'), escape(policy), showBytes(bytes), bar])
  })
  const rest = sorted.slice(shown.length).reduce((n, k) => n + k.bytes, 0)
  if (rest) rows.push(row([`and ${sorted.length - shown.length} more`, '', showBytes(rest), '']))
  return `<table class="kept">\n${row(['layer', 'policy', 'kept', ''], 'th')}\n${rows.join('\n')}\n</table>`
}

const style = `
:root { color-scheme: light dark; --paper: white; --ink: #1f2328; --rule: #d8dee4 }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --rule: #30363d } }
body { background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1rem }
figure { margin: 0 } svg { max-width: 100%; height: auto }
figcaption { font-size: 13px } ul { list-style: none; margin: 0; padding: 0 } li i { display: inline-block; width: 12px; height: 12px; margin-right: 6px }
table { border-collapse: collapse; margin: 0.5rem 0 } td, th { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--rule); text-align: left; font-variant-numeric: tabular-nums }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2), .kept td:nth-child(3), .kept th:nth-child(3) { text-align: right }
.kept { width: 100% } .kept td:last-child { width: 45% } .kept div { height: 12px }
`

/**
 * A page in HTML with everything in it, no script and nothing to fetch: curves of what each run's `History` holds (a point
 * is the mean of the steps around it, the band reaches from the lowest to the highest), a table that compares the runs,
 * and of each plan what is kept by layer and the arena. Bright or dark as the reader has it.
 */
export function report(runs: readonly Run[], options: { title?: string } = {}): string {
  expectOptions('report', options, ['title'])
  if (!Array.isArray(runs)) fail('AUX_INVALID_ARGUMENT', `report: expected an array of runs, got ${typeof runs}`)
  for (const run of runs as readonly Run[]) {
    expectOptions('report', run, ['name', 'history', 'plan', 'facts'])
    if (run.history !== undefined && !(run.history instanceof History))
      fail('AUX_INVALID_ARGUMENT', `report: expected history of ${run.name} to be a train.History`)
  }
  const title = escape(options.title ?? 'Training')
  const plans = (runs as readonly Run[]).flatMap(({ name, plan }) =>
    plan
      ? [`<h2>What ${escape(name)} keeps</h2>`, keptBy(plan), `<h2>The arena of ${escape(name)}</h2>`, plan.toSVG()]
      : [],
  )
  return [
    '<!doctype html>',
    `<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title}</title><style>${style}</style></head><body>`,
    `<h1>${title}</h1>`,
    comparison(runs),
    `<div class="charts">\n${charts(runs).join('\n')}\n</div>`,
    ...plans,
    '</body></html>',
    '',
  ].join('\n')
}
