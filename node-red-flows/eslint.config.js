import js from '@eslint/js';
import globals from 'globals';

export default [
  { ignores: ['**/node_modules/', 'node-red-5/'] },
  js.configs.recommended,
  // The code of flows gets what it uses as arguments; only these are there in function nodes too.
  {
    files: ['flows/*/*.js', 'flows/examples/*/*.js', 'lib/**/*.js'],
    languageOptions: { globals: { Buffer: 'readonly', URL: 'readonly', setTimeout: 'readonly', clearTimeout: 'readonly' } },
  },
  { files: ['nodes/*.js', 'lib/client.js'], languageOptions: { globals: globals.node } },
  { files: ['**/*.mjs', 'eslint.config.js'], languageOptions: { globals: { ...globals.node, window: 'readonly', document: 'readonly' } } },
];
