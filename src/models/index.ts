export {
  ReversibleTransformerBlock,
  TransformerBlock,
  TransformerBranches,
  type Blocks,
  type TransformerOptions,
} from './block'
export * from './cnn'
export * from './generate'
export * from './mlp'
export * from './resnet'
export * from './transformer'
export * from './vit'
