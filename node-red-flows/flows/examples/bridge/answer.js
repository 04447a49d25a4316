export { default } from '../plant/answer.js';
