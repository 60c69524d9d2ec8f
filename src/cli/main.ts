#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { bench } from './bench'
import { build } from './build'
import { info } from './info'
import { exitCode, leaveOnBrokenOutput } from './output'
import { plan } from './plan'
import { train } from './train'
import { version } from '../native'

/** The command line, one file a command. */
export function program(): Command {
  const root = new Command('auxgrad')
    .description('Train neural networks inside Node.js within a memory budget known before the first step.')
    .version(version(), '--version')
    .showHelpAfterError('(auxgrad --help lists commands and options)')
    .exitOverride()
  for (const command of [train(), plan(), bench(), info(), build()])
    root.addCommand(command.copyInheritedSettings(root))
  return root
}

/** Runs the command line; the exit code goes to `process.exitCode`. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    await program().parseAsync([...argv], { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Help and version were asked for and shown; all else is wrong usage, already explained on stderr.
    process.exitCode = error.exitCode === 0 ? exitCode.ok : exitCode.usage
  }
}

if (require.main === module) {
  leaveOnBrokenOutput()
  void main(process.argv.slice(2))
}
