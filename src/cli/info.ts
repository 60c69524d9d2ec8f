import { Command } from 'commander'
import os from 'node:os'
import { AuxgradError } from '../errors'
import { info as about } from '../info'
import { platformText, version } from '../native'
import { deviceNamed } from '../tensor/device'
import { device } from './options'
import { action, exitCode } from './output'

/** `auxgrad info`: what a bug report needs. Fails, with all it knows, where no binary loads. */
export function info(): Command {
  return new Command('info')
    .description('Show version, platform, the binary in use and what it can do here.')
    .option('--device <name>', 'a device to look for: cuda or cuda:1', device, 'cpu')
    .option('--json', 'one JSON object on stdout')
    .action(
      action<{ device: string; json?: boolean }>((options, output) => {
        const node = process.versions.node
        const machine = { cpu: os.cpus()[0]?.model.trim() ?? 'unknown', memory: os.totalmem() }
        const found = deviceNamed('info', options.device)?.description // or an error that says why there is none
        try {
          const { version: auxgrad, platform, binary, compiler, isa, isaAvailable, threads } = about()
          const here = { binary, isa, isaAvailable, threads, compiler, ...(found && { device: found }) }
          const all = { auxgrad, node, platform, ...machine, ...here }
          output.result(
            all,
            [
              `auxgrad   ${auxgrad}`,
              `platform  ${platform}`,
              `cpu       ${machine.cpu}, ${(machine.memory / 2 ** 30).toFixed(1)} GiB`,
              `binary    ${binary} (${compiler})`,
              `isa       ${isa} (available: ${isaAvailable.join(', ')})`,
              `threads   ${threads}`,
              ...(found ? [`device    ${found}`] : []),
            ].join('\n'),
          )
          return exitCode.ok
        } catch (error) {
          if (!(error instanceof AuxgradError)) throw error
          const known = { auxgrad: version(), node, platform: platformText(), ...machine }
          output.result(
            { ...known, binary: null, error: { code: error.code, message: error.message } },
            `auxgrad   ${known.auxgrad}\nplatform  ${known.platform}\nbinary    none`,
          )
          process.stderr.write(`auxgrad: ${error.message}\n`)
          return exitCode.failed
        }
      }),
    )
}
