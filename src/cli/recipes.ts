import { ara, asa, q2, quantized, type MemoryAssignment } from '../memory'
import { CNN, MLP, ResNet } from '../models'
import type { Module } from '../nn'
import * as optim from '../optim'
import type { Tensor } from '../tensor/tensor'
import { usage } from './output'

export type Rule = 'bp' | 'asa' | 'ara' | 'q2' | 'q8'
export const rules: readonly Rule[] = ['bp', 'asa', 'ara', 'q2', 'q8']
/** Those that are compared unless a run names others. */
export const compared: readonly Rule[] = ['bp', 'asa', 'ara']

type Model = Module & { forward(x: Tensor): Tensor }

/** A model that the command line trains, its learning rate, and what its layers keep under each rule. */
export interface Recipe {
  make(): Model
  /** For Adam, batches of 128; other optimizers take a multiple of it. */
  lr: number
  memory: Partial<Record<Rule, MemoryAssignment>>
}

const araStages: MemoryAssignment = [[/^stage\d$/, ara()]]
// As in the paper: the first convolution of each residual branch, and projections on the shortcut.
const asaBranches: MemoryAssignment = [[/^stage\d\.\d\.(conv1|shortcut\.conv)$/, asa({ alphabet: 'auto' })]]
// All convolutions but the first.
const q2Stages: MemoryAssignment = [[/^stage\d\.\d\.(conv\d|shortcut\.conv)$/, q2()]]

export const recipes: Record<string, Recipe> = {
  mlp: {
    make: () => new MLP([784, 512, 512, 10]),
    lr: 1e-3,
    memory: {
      bp: {},
      asa: { 'layers.1': asa(), 'layers.2': asa() },
      q2: { 'layers.1': q2(), 'layers.2': q2() },
      q8: quantized(),
    },
  },
  cnn: {
    make: () => new CNN(),
    lr: 2e-3,
    memory: { bp: {}, asa: asaBranches, ara: araStages, q2: q2Stages, q8: quantized() },
  },
  resnet18: {
    make: () => new ResNet({ depth: 18, classes: 10, channels: 1, layout: 'ara' }),
    lr: 1e-3,
    memory: { bp: {}, asa: asaBranches, ara: araStages, q2: q2Stages, q8: quantized() },
  },
}

/** @throws UsageError naming the models there are. */
export const recipeOf = (model: string): Recipe => chosen('--model', recipes, model)

/** @throws UsageError naming the rules the model has. */
export const memoryOf = (model: string, rule: Rule): MemoryAssignment =>
  recipeOf(model).memory[rule] ??
  usage(
    `--rule: expected one of ${Object.keys(recipeOf(model).memory).join(', ')} for ${model}, got ${rule} (ara needs residual blocks)`,
  )

/** Optimizers that the command line trains with; the learning rate given is Adam's. */
export const optimizers: Record<string, (lr: (step: number) => number) => optim.Base> = {
  adam: (lr) => new optim.Adam({ lr }),
  adam8: (lr) => new optim.Adam({ lr, bits: 8 }),
  lion: (lr) => new optim.Lion({ lr: (step) => lr(step) / 3, momentum: 'bf16' }),
  adafactor: (lr) => new optim.Adafactor({ lr }),
  sm3: (lr) => new optim.SM3({ lr: (step) => 20 * lr(step), momentum: 0.9 }),
}

/** @throws UsageError naming the optimizers there are. */
export const optimizerOf = (name: string): (typeof optimizers)[string] => chosen('--optimizer', optimizers, name)

function chosen<T>(option: string, from: Readonly<Record<string, T>>, name: string): T {
  if (!Object.hasOwn(from, name)) usage(`${option}: expected one of ${Object.keys(from).join(', ')}, got ${name}`)
  return from[name]
}
