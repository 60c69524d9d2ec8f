import { Tensor } from '../tensor/tensor'
let state = 12345n
const next = (): number => {
  state = (state * 6364136223846793005n + 1442695040888963407n) & ((1n << 64n) - 1n)
  return Number(state >> 40n) / 2 ** 24
}
export const uniform = (shape: readonly number[], { low = 0, high = 1 } = {}): Tensor => {
  const n = shape.reduce((a, b) => a * b, 1)
  return Tensor.from(Float32Array.from({ length: n }, () => low + (high - low) * next()), shape, 'f32')
}
export const normal = (shape: readonly number[], { mean = 0, std = 1 } = {}): Tensor => {
  const n = shape.reduce((a, b) => a * b, 1)
  return Tensor.from(Float32Array.from({ length: n }, () => mean + std * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())), shape, 'f32')
}
export const truncatedNormal = normal
