/** Reports tests that this machine cannot run; a skipped test must never look like a passed one. */
export function notRun(part, why) {
  console.log(`NOT RUN: ${part} (${why})`);
}
