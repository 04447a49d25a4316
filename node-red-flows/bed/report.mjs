/** Says what this machine cannot run; a part left out must never look like a part that passed. */
export function notRun(part, why) {
  console.log(`NOT RUN: ${part} (${why})`);
}
