import { fail } from '../errors'

/** Bytes, as a number or as text: '64MiB', '1.5 GB', '800k'. */
export type Bytes = number | string

const units: Record<string, number> = {
  '': 1,
  b: 1,
  k: 1000,
  kb: 1000,
  kib: 1024,
  m: 1e6,
  mb: 1e6,
  mib: 1024 ** 2,
  g: 1e9,
  gb: 1e9,
  gib: 1024 ** 3,
}

/** @throws AUX_INVALID_ARGUMENT for what is not a number of bytes. */
export function parseBytes(bytes: Bytes): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(String(bytes))
  const unit = match && units[match[2].toLowerCase()]
  if (!match || !unit || !(Number(match[1]) > 0))
    fail(
      'AUX_INVALID_ARGUMENT',
      `expected a number of bytes such as 67108864, '64MiB' or '1.5GB', got ${JSON.stringify(bytes)}`,
    )
  return Math.floor(Number(match[1]) * unit)
}

/** Bytes for people. */
export function showBytes(bytes: number): string {
  const steps: [number, string][] = [
    [1024 ** 3, 'GiB'],
    [1024 ** 2, 'MiB'],
    [1024, 'KiB'],
  ]
  for (const [size, unit] of steps) if (bytes >= size) return `${(bytes / size).toFixed(2)} ${unit}`
  return `${bytes} bytes`
}

/** Bytes for people and to the last one. */
export const exactBytes = (bytes: number): string =>
  bytes < 1024 ? showBytes(bytes) : `${showBytes(bytes)} (${bytes} bytes)`
