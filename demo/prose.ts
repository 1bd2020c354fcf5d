/** Characters that a simulated server counts as one token. */
const tokenChars = 4;

const words = 'harbour mooring cleat bollard hawser capstan windlass anchor tide pilot berth quay winch fender rudder keel'.split(' ');

/** Text of about `tokens` tokens that is the same for the same seed and different for another. */
export function proseOf(seed: number, tokens: number): string {
  let state = (seed * 2_654_435_761) >>> 0;
  let text = '';
  while (text.length < tokens * tokenChars) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    text += `${words[(state >>> 24) % words.length] ?? ''} `;
  }
  return text.slice(0, tokens * tokenChars);
}

/** What every conversation of the demo begins with. */
export const systemPrompt = `You are the harbour master's assistant. ${proseOf(0, 150)}`;
