export * from './activation'
export * from './attention'
export * from './container'
export * from './conv'
export * from './dropout'
export * from './embedding'
export * as init from './init'
export * from './linear'
export * from './lite'
export * from './lora'
export * from './lsh'
export { buffer, Module } from './module'
export * from './norm'
export * from './normed'
export * from './padding'
export * from './parameter'
export * from './pooling'
export {
  GRU,
  GRUCell,
  LSTM,
  LSTMCell,
  RNN,
  RNNCell,
  type LSTMCellOptions,
  type RecurrentOptions,
  type RNNCellOptions,
} from './recurrent'
export * from './reversible'
export * from './shuffle'
export * from './transposed'
export * from './vector'
export {
  bceWithLogits,
  cosineEmbedding,
  crossEntropy,
  ctc,
  focal,
  gaussianNll,
  hingeEmbedding,
  huber,
  klDivergence,
  l1,
  marginRanking,
  mse,
  multiMargin,
  multilabelMargin,
  multilabelSoftMargin,
  nll,
  poissonNll,
  smoothL1,
  softMargin,
  tripletMargin,
  type CtcOptions,
  type MarginOptions,
  type MultiMarginOptions,
} from '../ops'
