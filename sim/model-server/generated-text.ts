import { tokenBytes } from './block-hashes.ts';

// The answer says what it is; then words of one token each: three letters and a space.
const opening = '[simulated] ';
const words =
  'and the for all sea bow rig map oar fog bay kit log ebb low new tar hut pin gap jib key cup lee net tug ice sun way yaw fit hub'.split(' ');

const naturalTokensMin = 32;
const naturalTokensMax = 160;

/** How many tokens the "model" would say to this prompt if nothing stopped it: 32 to 160, the same for the same prompt. */
export function naturalOutputTokens(seed: number): number {
  return naturalTokensMin + (seed % (naturalTokensMax - naturalTokensMin + 1));
}

/** The text of each token of an answer, 4 bytes each, the same for the same seed. */
export function generatedTokens(seed: number, count: number): string[] {
  const tokens: string[] = [];
  for (let at = 0; at < opening.length && tokens.length < count; at += tokenBytes) tokens.push(opening.slice(at, at + tokenBytes));
  let state = seed | 0;
  while (tokens.length < count) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    tokens.push(`${words[(state >>> 16) % words.length] ?? 'and'} `);
  }
  return tokens;
}
