import { runInNewContext } from 'node:vm'
import { tensor } from '../../src/ops'
import { hostArray, isHostArray, toHost } from '../../src/tensor/host'

test('values of every kind become host arrays', () => {
  expect(
    toHost('v', [
      [1, 2],
      [3, 4.5],
    ]),
  ).toEqual({ data: Float32Array.of(1, 2, 3, 4.5), shape: [2, 2], dtype: 'f32' })
  expect(toHost('v', [true, false])).toEqual({ data: Uint8Array.of(1, 0), shape: [2], dtype: 'bool' })
  expect(toHost('v', 3, 'i32')).toEqual({ data: Int32Array.of(3), shape: [], dtype: 'i32' })
  expect(toHost('v', Uint8Array.of(1, 255), 'i32')).toEqual({ data: Int32Array.of(1, 255), shape: [2], dtype: 'i32' })
  expect(toHost('v', tensor([[1, 2]]))).toEqual({ data: Float32Array.of(1, 2), shape: [1, 2], dtype: 'f32' })
  expect(toHost('v', [])).toEqual({ data: new Float32Array(0), shape: [0], dtype: 'f32' })
  expect(toHost('v', [[], []])).toEqual({ data: new Float32Array(0), shape: [2, 0], dtype: 'f32' })
  const own = Float32Array.of(1, 2)
  expect(toHost('v', own).data).toBe(own)
  expect(toHost('v', hostArray(own, [2, 1])).data).toBe(own)
  expect(isHostArray(hostArray(own))).toBe(true)
  expect(toHost('v', { data: own, shape: [2, 1] })).toEqual({ data: own, shape: [2, 1], dtype: 'f32' })
  expect(toHost('v', Float64Array.of(0.1, 2))).toEqual({ data: Float32Array.of(0.1, 2), shape: [2], dtype: 'f32' })
  const doubles = { data: Float64Array.of(3, 2 ** 24 + 1), shape: [2] }
  expect(toHost('v', doubles, 'i32')).toEqual({ data: Int32Array.of(3, 2 ** 24 + 1), shape: [2], dtype: 'i32' })
  expect(toHost('v', Uint8ClampedArray.of(300))).toEqual({ data: Uint8Array.of(255), shape: [1], dtype: 'u8' })
  for (const other of [null, 3, own, [1], tensor([1]), { data: [1], shape: [1], dtype: 'f32' }])
    expect(isHostArray(other)).toBe(false)
})

test('typed arrays may be rows of nested arrays, and plain ones the data of a shape', () => {
  const rows = [Int32Array.of(1, 2), Int32Array.of(3, 4)]
  expect(toHost('v', rows)).toEqual({ data: Int32Array.of(1, 2, 3, 4), shape: [2, 2], dtype: 'i32' })
  expect(toHost('v', [rows]).shape).toEqual([1, 2, 2])
  expect(toHost('v', [Float64Array.of(0.1), [2]])).toEqual({
    data: Float32Array.of(0.1, 2),
    shape: [2, 1],
    dtype: 'f32',
  })
  expect(tensor([Uint8Array.of(1, 255), Uint8ClampedArray.of(3, 4)]).dtype).toBe('u8')
  expect(toHost('v', { data: [1, 2.5], shape: [2, 1] })).toEqual({
    data: Float32Array.of(1, 2.5),
    shape: [2, 1],
    dtype: 'f32',
  })
  expect(tensor({ data: [1, 2], shape: [1, 2], dtype: 'i32' }).dtype).toBe('i32')
  const invalid = (values: unknown, message: RegExp): void =>
    expect(() => toHost('v', values as never)).toThrow(message)
  invalid(
    [Float32Array.of(1), Float32Array.of(1, 2)],
    /v: expected nested arrays of shape \[2, 1\], got one of length 2/,
  )
  invalid([Int32Array.of(1), [0.5]], /v: expected values that i32 can hold, got 0.5 at 1/)
  invalid([Uint16Array.of(1)], /v: expected numbers .*, got Uint16Array/) // numbers, or patterns of bf16?
  invalid([new DataView(new ArrayBuffer(8))], /got DataView/)
  invalid({ data: { 0: 1 }, shape: [1] }, /got \{ data: Object, shape: Array \}/)
  invalid({ data: [1, 2], shape: [3] }, /v: expected 3 values for shape \[3\], got Array of 2/)
})

test('typed arrays of another context are values too', () => {
  const other = (code: string): never => runInNewContext(code) as never
  expect(toHost('v', other('Float32Array.of(1.5)')).dtype).toBe('f32')
  expect(toHost('v', { data: other('Int32Array.of(3)'), shape: [1] }).dtype).toBe('i32')
  expect(tensor(other('Float64Array.of(0.5, 2)')).toArray()).toEqual([0.5, 2])
  expect(tensor(other('Uint8ClampedArray.of(7)')).toArray()).toEqual([7])
  expect(tensor([0, 0]).assign(other('Float32Array.of(1, 2)')).toArray()).toEqual([1, 2])
  expect(() => toHost('v', other('new Int16Array(1)'))).toThrow(/got Int16Array/)
})

test('what does not fit is refused', () => {
  const code = (body: () => unknown): string => {
    try {
      body()
    } catch (error) {
      expect((error as Error).message).toMatch(/expected .* got /)
      return (error as { code: string }).code
    }
    return 'no error'
  }
  expect(code(() => toHost('v', [[1], [2, 3]]))).toBe('AUX_SHAPE_MISMATCH')
  expect(code(() => toHost('v', [1, [2]]))).toBe('AUX_SHAPE_MISMATCH')
  expect(code(() => toHost('v', [[1], 2]))).toBe('AUX_SHAPE_MISMATCH')
  expect(code(() => toHost('v', ['a' as unknown as number]))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', [300], 'u8'))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', [1.5], 'i32'))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', [2], 'bool'))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', Int32Array.of(-1), 'u32'))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', new Int16Array(2) as never))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', Float64Array.of(0.5), 'i32'))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', { data: Float64Array.of(1), shape: [2] }))).toBe('AUX_SHAPE_MISMATCH')
  expect(code(() => toHost('v', { data: ['1'], shape: [1] } as never))).toBe('AUX_INVALID_ARGUMENT')
  for (const nothing of [null, undefined, 'abc', {}, new Map()])
    expect(code(() => toHost('v', nothing as never))).toBe('AUX_INVALID_ARGUMENT')
  expect(code(() => toHost('v', [1], 'bf16'))).toBe('AUX_DTYPE_MISMATCH')
  expect(code(() => toHost('v', { data: Float32Array.of(1), shape: [2], dtype: 'f32' }))).toBe('AUX_SHAPE_MISMATCH')
  expect(code(() => toHost('v', { data: Float32Array.of(1), shape: [1], dtype: 'i32' }))).toBe('AUX_DTYPE_MISMATCH')
  expect(code(() => toHost('v', { data: Float32Array.of(1), shape: [1], dtype: 'f99' as never }))).toBe(
    'AUX_DTYPE_MISMATCH',
  )
  expect(code(() => hostArray(Float32Array.of(1), [2]))).toBe('AUX_SHAPE_MISMATCH')
  expect(code(() => hostArray(Float32Array.of(1), [1], 'i32'))).toBe('AUX_DTYPE_MISMATCH')
})
