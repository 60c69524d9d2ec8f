export { loadCheckpoint, saveCheckpoint, type Checkpoint, type LoadedCheckpoint } from './checkpoint'
export { toHostArray } from './convert'
export type { Json } from './json'
export {
  readSafetensors,
  SafetensorsFile,
  writeSafetensors,
  type RawTensor,
  type ReadOptions,
  type Safetensors,
  type SafetensorsDType,
  type TensorInfo,
} from './safetensors'
