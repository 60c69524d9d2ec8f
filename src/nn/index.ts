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
export * from './parameter'
export * from './pooling'
export { GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell, type RecurrentOptions, type RNNCellOptions } from './recurrent'
export * from './reversible'
export * from './shuffle'
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
  nll,
  poissonNll,
  smoothL1,
  tripletMargin,
  type CtcOptions,
  type MarginOptions,
} from '../ops'
