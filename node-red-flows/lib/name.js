/** Whether the server accepts this as the name of a model. */
export const isName = (name) => typeof name === 'string' && /^[A-Za-z0-9._-]{1,128}$/.test(name) && name !== '.' && name !== '..';

/** What is wrong with a name that the server does not accept. */
export const badName = (name) =>
  `the name of a model must be 1 to 128 letters from A to Z, digits, dots, underscores and hyphens, got ${JSON.stringify(String(name).slice(0, 60))}`;
