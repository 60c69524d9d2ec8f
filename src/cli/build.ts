import { Command } from 'commander'
import { spawn } from 'node:child_process'
import path from 'node:path'
import { AuxgradError } from '../errors'
import { action, exitCode } from './output'
import { packageRoot } from '../native'

/**
 * `auxgrad build`: compiles the C++ sources of this package for this machine, for platforms without a prebuilt binary.
 * Needs a C++17 compiler; uses CMake where it is installed; downloads nothing.
 */
export function build(): Command {
  return new Command('build')
    .description('Compile the native part for this machine (needs a C++ compiler, downloads nothing).')
    .option('--no-cmake', 'drive the compiler directly even where CMake is installed')
    .option('--json', 'one JSON object on stdout')
    .action(
      action<{ cmake: boolean; json?: boolean }>(async (options, output) => {
        const script = path.join(packageRoot, 'scripts/build-native.js')
        output.note(`compiling the native part in ${packageRoot} (about a minute)`)
        const code = await run(process.execPath, options.cmake ? [script] : [script, '--no-cmake'])
        if (code !== 0)
          throw new AuxgradError('AUX_NO_NATIVE', 'the native build failed; its last lines say what is missing')
        const check = `require(${JSON.stringify(path.join(__dirname, '../native.js'))}).native().info()`
        // In another process: a broken binary that this one has loaded stays loaded.
        if ((await run(process.execPath, ['-e', check])) !== 0)
          throw new AuxgradError('AUX_NO_NATIVE', 'the native part was built but does not load')
        const binary = path.join(packageRoot, 'build/Release/auxgrad.node')
        output.result({ binary }, `built ${binary}`)
        return exitCode.ok
      }),
    )
}

/** Runs a program; its words go to stderr. */
function run(command: string, args: string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', process.stderr, process.stderr] })
    child.on('error', reject)
    child.on('close', (code) => resolve(code ?? 1))
  })
}
