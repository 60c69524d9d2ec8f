import { Presets, SingleBar } from 'cli-progress'

/** How far a long run is: a bar on a terminal, a line now and then elsewhere. Always on standard error. */
export interface Progress {
  update(done: number, facts: Record<string, string>): void
  end(): void
}

const every = 5000 // milliseconds between lines

export function progress(title: string, total: number): Progress {
  if (process.stderr.isTTY) {
    const bar = new SingleBar(
      { format: `${title} {bar} {value}/{total} {facts}`, stream: process.stderr, hideCursor: true, barsize: 24 },
      Presets.shades_classic,
    )
    bar.start(total, 0, { facts: '' })
    return { update: (done, facts) => bar.update(done, { facts: line(facts) }), end: () => bar.stop() }
  }
  let last = performance.now()
  return {
    update(done, facts) {
      if (performance.now() - last < every && done < total) return
      last = performance.now()
      process.stderr.write(`${title} ${done}/${total} ${line(facts)}\n`)
    },
    end: () => undefined,
  }
}

const line = (facts: Record<string, string>): string =>
  Object.entries(facts)
    .map(([name, value]) => `${name} ${value}`)
    .join('  ')

/** A time that is left, in its two largest units. */
export function duration(seconds: number): string {
  const s = Math.ceil(seconds)
  if (s < 60) return `${s} s`
  const [m, h] = [Math.floor(s / 60), Math.floor(s / 3600)]
  return h ? `${h} h ${m % 60} min` : `${m} min ${s % 60} s`
}
