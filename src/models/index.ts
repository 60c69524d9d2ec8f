export * from './cnn'
export * from './mlp'
export * from './resnet'
export * from './transformer'
