module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { target: 'es2022', parser: { syntax: 'typescript' } }, module: { type: 'commonjs' } },
    ],
  },
  testTimeout: 60000,
  maxWorkers: '100%',
  // A process for each file: tests that count bytes would otherwise see garbage of other files freed.
  workerIdleMemoryLimit: '1MB',
}
