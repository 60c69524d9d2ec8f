export * from './ops'
export { Tensor } from './tensor/tensor'
export { keep, tidy } from './tensor/tidy'
export { AuxgradError, type ErrorCode } from './errors'
