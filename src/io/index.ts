export { loadCheckpoint, saveCheckpoint, type Checkpoint, type LoadedCheckpoint } from './checkpoint'
export type { Json } from './json'
export {
  readSafetensors,
  SafetensorsFile,
  toHostArray,
  writeSafetensors,
  type RawTensor,
  type ReadOptions,
  type Safetensors,
  type SafetensorsDType,
  type TensorInfo,
} from './safetensors'
