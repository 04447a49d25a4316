import js from '@eslint/js';
import globals from 'globals';

export default [
  { ignores: ['**/node_modules/', 'node-red-5/'] },
  js.configs.recommended,
  // The code of flows and nodes gets everything else as arguments.
  { files: ['flows/*/*.js', 'lib/**/*.js'], languageOptions: { globals: { Buffer: 'readonly', URL: 'readonly', setTimeout: 'readonly', clearTimeout: 'readonly' } } },
  { files: ['**/*.mjs', 'eslint.config.js'], languageOptions: { globals: { ...globals.node, window: 'readonly', document: 'readonly' } } },
];
