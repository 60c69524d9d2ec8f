export * from './compile'
export * as data from './data'
export * as io from './io'
export * from './memory'
export * as models from './models'
export * as nn from './nn'
export * from './ops'
export * as optim from './optim'
export * as train from './train'
export { AuxgradError, type ErrorCode } from './errors'
export { info, setThreads, type Info } from './info'
export type { Graph, Node, Phase } from './graph/graph'
export type { Derivation, KernelCall, Op, Weighted } from './graph/op'
export {
  hostArray,
  isHostArray,
  type HostArray,
  type HostValues,
  type NestedNumbers,
  type NumberArray,
  type ShapedArray,
} from './tensor/host'
export type { NestedArray } from './tensor/format'
export { Tensor, type Layout, type Spec } from './tensor/tensor'
export type { DType, TypedArray } from './tensor/dtype'
export { memory, resetPeakMemory, type Memory } from './tensor/memory'
export type { Shape } from './tensor/shape'
export { keep, tidy } from './tensor/tidy'
