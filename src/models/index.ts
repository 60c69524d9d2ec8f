export {
  ReversibleTransformerBlock,
  TransformerBlock,
  TransformerBranches,
  type Blocks,
  type TransformerOptions,
} from './block'
export * from './cnn'
export * from './generate'
export { Mixer, MixerBlock, type MixerOptions } from './mixer'
export * from './mlp'
export { InvertedResidual, MobileNetV2, type MobileNetV2Options } from './mobilenet'
export { Patches } from './patches'
export * from './placement'
export * from './reformer'
export * from './resnet'
export * from './seq2seq'
export * from './transformer'
export * from './vit'
