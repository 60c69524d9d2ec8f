export { scaledDotProductAttention, type AttentionOptions } from './attention'
export { atan2, outer, where, type Operand } from './binary'
export { categorical, type CategoricalOptions } from './categorical'
export { multiMargin, multilabelMargin, multilabelSoftMargin, softMargin, type MultiMarginOptions } from './classes'
export { codePack, codeUnpack, conv2dCodeWeightGrad, linearCodeWeightGrad } from './codes'
export { conv2d } from './conv'
export { conv1d } from './conv1d'
export { conv3d, type Conv3dOptions, type Triple } from './conv3d'
export { bincount, searchsorted, unique, type Unique } from './counts'
export { ctc, type CtcOptions } from './ctc'
export { convTranspose2d, type ConvTransposeOptions } from './transposed'
export { convTranspose1d, type ConvTranspose1dOptions } from './transposed1d'
export { convTranspose3d, type ConvTranspose3dOptions } from './transposed3d'
export { couple, velocity } from './couple'
export type { Conv1dOptions, ConvAttrs, ConvOptions, Pair } from './geometry'
export { arange, eye, full, linspace, ones, tensor, zeros } from './create'
export { einsum } from './einsum'
export { embedding, oneHot } from './indices'
export { interpolate, type InterpolateOptions } from './interpolate'
export { concat, stack, type PadMode, type Range } from './join'
export {
  bceWithLogits,
  crossEntropy,
  huber,
  klDivergence,
  l1,
  mse,
  nll,
  smoothL1,
  type CrossEntropyOptions,
  type NllOptions,
  type Reduction,
} from './loss'
export { focal, gaussianNll, poissonNll } from './likelihood'
export {
  cosineEmbedding,
  cosineSimilarity,
  hingeEmbedding,
  marginRanking,
  tripletMargin,
  type MarginOptions,
} from './margin'
export { linear, matmul } from './matmul'
export { batchNorm, groupNorm, layerNorm, rmsNorm, type BatchNormState } from './norm'
export { dequantize, quantize, type CodeBits, type Quantized } from './quantize'
export { bernoulli, dropout, normal, permutation, randint, seed, shuffle, truncatedNormal, uniform } from './random'
export { dot, type VarianceOptions } from './reduce'
export { meshgrid } from './shape'
export type { StoreFormat } from './store'
export { addSign, conv2dSignWeightGrad, linearSignWeightGrad, maskApply, signPack, signUnpack } from './sign'
export type { Alphabet } from '../graph/op'
export type { Sorted } from './sort'
export type { PoolOptions } from './pool'
export type { Pool1dOptions } from './pool1d'
export type { Pool3dOptions } from './pool3d'
export type { GeluOptions } from './unary'
export { fold, unfold, type UnfoldOptions } from './unfold'
import './adaptive'
import './assign'
import './diagonal'
import './pool'
import './pool1d'
import './pool3d'
import './quantile'
import './reduce'
import './sort'
import './trigonometry'
import './unary'
