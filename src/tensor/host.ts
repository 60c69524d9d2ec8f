import type { DType, TypedArray } from './dtype'

/** Values in JavaScript memory, row-major: garbage collected, nothing to dispose. */
export interface HostArray {
  readonly data: TypedArray
  readonly shape: readonly number[]
  readonly dtype: DType
}
