// A report in a few rows: for each family of cases the geometric mean, the lowest, and how many miss the project's goal.
// A case counts with its speed as a multiple of the best peer's, which was measured in turn with it.
'use strict'

/** `each` is the goal of every case, `mean` that of their geometric mean. */
const families = [
  { name: 'matrix products', group: 'gemm', each: 1 },
  ...['forward', 'input grad', 'weight grad'].flatMap((direction) => [
    { name: `convolutions, ${direction}`, group: 'conv', match: new RegExp(`^r.*${direction}$`), each: 0.8, mean: 1 },
    {
      name: `depthwise, ${direction}`,
      group: 'conv',
      match: new RegExp(`depthwise.*${direction}$`),
      each: 0.8,
      mean: 1,
    },
  ]),
  { name: 'weight gradients from signs', group: 'sign-gradient', match: /^signs/, each: 2.5 },
  { name: 'weight gradients from two-bit codes', group: 'sign-gradient', match: /^code2/, each: 1, mean: 1.2 },
  { name: 'the same of convolutions, signs', group: 'conv-sign-gradient', match: /^signs/, each: 2 },
  { name: 'the same of convolutions, two-bit codes', group: 'conv-sign-gradient', match: /^code2/ },
  { name: 'fused, of the bare kernel', group: 'fused', each: 0.98 },
  { name: 'memory-bound, of a plain stream', group: 'memory', each: 0.85 },
  { name: 'attention, of the multiply-add peak', group: 'attention', value: (r) => r.fractionOfPeak },
  { name: 'training steps, backpropagation', group: 'step', match: / bp/, each: 1 / 0.9 },
  { name: 'training steps, ASA and ARA', group: 'step', match: / (asa|ara)/, each: 1 / 0.75 },
]

/** Held to AVX2 kernels are to come within a tenth of their best peer, where the goal is more for AVX-512. */
const goalOf = (goal, isa, group) => (isa === 'avx2' && group !== 'step' ? goal && Math.min(goal, 0.9) : goal)

/** @param report what run.js writes @returns rows of {name, threads, cases, mean, lowest: {name, value}, each, under} */
function summary(report) {
  const rows = []
  for (const { name, group, match = /./, each, mean, value = (r) => r.ratioToBestPeer } of families) {
    const all = report.results.filter((r) => r.group === group && match.test(r.name) && value(r) > 0)
    for (const threads of [...new Set(all.map((r) => r.threads))].sort((a, b) => a - b)) {
      const cases = all.filter((r) => r.threads === threads)
      const lowest = cases.reduce((a, b) => (value(a) < value(b) ? a : b))
      const goal = goalOf(each, report.machine.isa, group)
      rows.push({
        name,
        threads,
        cases: cases.length,
        mean: Math.exp(cases.reduce((sum, r) => sum + Math.log(value(r)), 0) / cases.length),
        meanGoal: goalOf(mean, report.machine.isa, group),
        lowest: { name: lowest.name, value: value(lowest) },
        goal,
        under: goal && cases.filter((r) => value(r) < goal).length,
      })
    }
  }
  return rows
}

module.exports = { summary }
