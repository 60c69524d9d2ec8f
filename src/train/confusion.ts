import type { Batch, CompiledFunction } from '../compile'
import { escape, palette, svg, text } from '../compile/svg'
import { describe, expectIntegers, expectOptions, fail } from '../errors'
import type { Tensor } from '../tensor/tensor'
import { classesOf } from './accuracy'

/** How well a class was recognised; a ratio without anything to divide by is 0. */
export interface ClassScore {
  /** What the class is called: its name, or its number. */
  readonly name: string
  /** Of the rows that were taken for it, the share that are of it. */
  readonly precision: number
  /** Of the rows that are of it, the share that were taken for it. */
  readonly recall: number
  /** Harmonic mean of precision and recall. */
  readonly f1: number
  /** Rows that are of it. */
  readonly support: number
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
const ratio = (part: number, whole: number): number => (whole ? part / whole : 0)

/** How many rows of each class were taken for each: rows of the matrix are labels, columns are what was predicted. */
export class ConfusionMatrix {
  /** Names of the classes, or their numbers. */
  readonly names: readonly string[]
  /** By label, then by predicted class. */
  readonly counts: readonly number[][]

  /** @param classes how many there are, or their names. */
  constructor(classes: number | readonly string[]) {
    if (!Array.isArray(classes)) expectIntegers('ConfusionMatrix', { classes })
    this.names = Array.isArray(classes) ? [...classes] : Array.from({ length: classes as number }, (_, i) => String(i))
    if (!this.names.length) fail('AUX_INVALID_ARGUMENT', 'ConfusionMatrix: expected names of classes, got none')
    this.counts = this.names.map(() => this.names.map(() => 0))
  }

  /**
   * Counts rows: the label and the predicted class of each.
   * @throws AUX_SHAPE_MISMATCH, AUX_INDEX_OUT_OF_RANGE; then nothing is counted.
   */
  add(labels: ArrayLike<number>, predicted: ArrayLike<number>): this {
    for (const [what, of] of Object.entries({ labels, predicted })) {
      if (typeof of?.length !== 'number')
        fail('AUX_INVALID_ARGUMENT', `ConfusionMatrix: expected ${what} to be an array of classes, got ${describe(of)}`)
      for (let i = 0; i < of.length; i++)
        if (!(Number.isInteger(of[i]) && of[i] >= 0 && of[i] < this.names.length))
          fail(
            'AUX_INDEX_OUT_OF_RANGE',
            `ConfusionMatrix: expected ${what} in [0, ${this.names.length}), got ${String(of[i])}`,
          )
    }
    if (labels.length !== predicted.length)
      fail(
        'AUX_SHAPE_MISMATCH',
        `ConfusionMatrix: got ${labels.length} labels, but ${predicted.length} predicted classes`,
      )
    for (let i = 0; i < labels.length; i++) this.counts[labels[i]][predicted[i]]++
    return this
  }

  /** Share of rows that were taken for what they are. */
  get accuracy(): number {
    return ratio(sum(this.counts.map((row, i) => row[i])), sum(this.counts.flat()))
  }

  /** Precision, recall and F1 of each class. */
  get scores(): ClassScore[] {
    return this.names.map((name, i) => {
      const right = this.counts[i][i]
      const support = sum(this.counts[i])
      const taken = sum(this.counts.map((row) => row[i]))
      const f1 = ratio(2 * right, support + taken)
      return { name, precision: ratio(right, taken), recall: ratio(right, support), f1, support }
    })
  }

  /** Mean of the F1 of all classes, each counting the same. */
  get macroF1(): number {
    return sum(this.scores.map(({ f1 }) => f1)) / this.names.length
  }

  /** A table: the counts of each label, and how well it was recognised. */
  toString(): string {
    const share = (v: number): string => v.toFixed(3)
    const lines = [
      ['', ...this.names, 'precision', 'recall', 'F1', 'rows'],
      ...this.scores.map(({ name, precision, recall, f1, support }, i) =>
        [name, ...this.counts[i], share(precision), share(recall), share(f1), support].map(String),
      ),
    ]
    const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)))
    const rows = lines.map((line) => line.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))))
    const all = `accuracy ${share(this.accuracy)}, mean F1 ${share(this.macroF1)}`
    return [...rows.map((cells) => cells.join('  ')), all].join('\n')
  }

  /** What `console.log` shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString()
  }

  /** The matrix as a picture: the deeper the colour, the larger the share of a label's rows. */
  toSVG(): string {
    const cell = 36
    const longest = Math.max(...this.names.map((name) => name.length))
    const [left, top] = [40 + 7 * longest, 40 + 7 * longest]
    const side = cell * this.names.length
    const [right, bottom] = [left + side, top + side]
    const parts = [
      text(left + side / 2, 16, 'predicted', 'text-anchor="middle"'),
      text(0, 0, 'label', `text-anchor="middle" transform="translate(16 ${top + side / 2}) rotate(-90)"`),
    ]
    this.names.forEach((name, i) => {
      const middle = (i + 0.5) * cell
      parts.push(
        text(left - 8, top + middle + 4, name, 'text-anchor="end"'),
        text(0, 0, name, `transform="translate(${left + middle + 4} ${top - 8}) rotate(-90)"`),
      )
      const support = sum(this.counts[i])
      this.counts[i].forEach((count, j) => {
        if (!count) return
        const share = count / support
        const [x, y] = [left + j * cell, top + i * cell]
        const title = `<title>${escape(`${name} taken for ${this.names[j]}: ${count} of ${support}`)}</title>`
        const opacity = (0.1 + 0.9 * share).toFixed(2)
        parts.push(
          `<rect x="${x}" y="${y}" width="${cell}" height="${cell}" fill="${palette[0]}" opacity="${opacity}">${title}</rect>`,
          text(
            x + cell / 2,
            y + cell / 2 + 4,
            String(count),
            `text-anchor="middle" font-size="11" pointer-events="none"${share > 0.6 ? ' class="on"' : ''}`,
          ),
        )
      })
    })
    parts.push(`<rect x="${left}" y="${top}" width="${side}" height="${side}" fill="none" class="grid"/>`)
    return svg(right + 20, bottom + 20, parts)
  }
}

/**
 * Which classes are taken for which. As of `accuracy`, `predict` gives classes, i32 [N], for the other fields of a batch; labels
 * are the field y.
 * @param options.classes how many there are, or their names.
 */
export async function confusionMatrix(
  predict: CompiledFunction<Tensor>,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
  options: { classes: number | readonly string[] },
): Promise<ConfusionMatrix> {
  expectOptions('confusionMatrix', options, ['classes'])
  const matrix = new ConfusionMatrix(options.classes)
  for await (const { labels, predicted } of classesOf('confusionMatrix', predict, batches))
    matrix.add(labels, predicted)
  return matrix
}
