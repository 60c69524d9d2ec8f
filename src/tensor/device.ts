import { existsSync } from 'node:fs'
import path from 'node:path'
import { fail } from '../errors'
import { native, packageRoot, version, type DeviceHandle } from '../native'

/** A device with memory and kernels of its own. */
export interface Device {
  /** As it was asked for: `cuda`, `cuda:1`. */
  readonly name: string
  /** What it is, in words. */
  readonly description: string
  /** @internal */
  readonly handle: DeviceHandle
}

const opened = new Map<string, Device>()

/** The package that brings the kernels for this platform (`scripts/pack-cuda.js` makes it). */
const cudaPackage = `auxgrad-cuda-${process.platform}-${process.arch}`

/** Its folder, if it is installed. */
function installed(): string | undefined {
  try {
    return path.dirname(require.resolve(`${cudaPackage}/package.json`, { paths: [packageRoot, process.cwd()] }))
  } catch {
    return undefined
  }
}

/** The library of CUDA kernels: what `AUXGRAD_CUDA_LIBRARY` names, that of the package, or a build. */
function library(what: string): string {
  const given = process.env.AUXGRAD_CUDA_LIBRARY
  const folder = given ? undefined : installed()
  if (folder && version(folder) !== version())
    fail('AUX_NO_DEVICE', `${what}: expected ${cudaPackage} ${version()} beside auxgrad, got ${version(folder)}`)
  const file = path.resolve(given ?? path.join(folder ?? path.join(packageRoot, 'build', 'Release'), 'auxgrad_cuda.so'))
  if (!existsSync(file))
    fail(
      'AUX_NO_DEVICE',
      `${what}: there are no CUDA kernels here: expected the package ${cudaPackage} ${version()} beside auxgrad, or ` +
        `${file}${given ? ' (AUXGRAD_CUDA_LIBRARY)' : ''}`,
    )
  return file
}

export const isDeviceName = (name: unknown): name is string =>
  typeof name === 'string' && /^(cpu|cuda(:\d{1,3})?)$/.test(name)

/**
 * The device of that name, opened once; null for `cpu`, the processor.
 * @throws AUX_NO_DEVICE where its kernels, its driver or the device itself is missing.
 */
export function deviceNamed(what: string, name: string): Device | null {
  if (!isDeviceName(name))
    fail('AUX_INVALID_ARGUMENT', `${what}: expected a device "cpu", "cuda" or "cuda:1", got ${JSON.stringify(name)}`)
  if (name === 'cpu') return null
  const own = name === 'cuda:0' ? 'cuda' : name
  const known = opened.get(own)
  if (known) return known
  const handle = native().openDevice(own, library(what))
  if ('code' in handle) fail('AUX_NO_DEVICE', `${what}: ${handle.message}`)
  const device = { name: own, description: native().deviceName(handle), handle }
  opened.set(own, device)
  return device
}
