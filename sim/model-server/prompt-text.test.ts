import { describe, expect, it } from 'vitest';
import { generatedTokens, naturalOutputTokens } from './generated-text.ts';
import { chatPrompt, contentText, plainPrompt } from './prompt-text.ts';

describe('chatPrompt', () => {
  it('is whole tokens, whatever the text', () => {
    for (const text of ['', 'a', 'ab', 'abc', 'abcd', 'ä', '😀x']) expect(chatPrompt([{ role: 'user', text }]).length % 4).toBe(0);
  });

  it("begins the next turn's prompt with this prompt and its answer", () => {
    const first = [{ role: 'system', text: 'Be brief.' }, { role: 'user', text: 'Hello, you.' }];
    const answer = generatedTokens(7, 9).join('');
    const next = chatPrompt([...first, { role: 'assistant', text: answer }, { role: 'user', text: 'More.' }]);
    expect(next.toString().startsWith(chatPrompt(first).toString() + answer)).toBe(true);
  });

  it('counts about a token for every four bytes of text', () => {
    const text = 'x'.repeat(8000);
    expect(chatPrompt([{ role: 'user', text }]).length / 4).toBeLessThan(2010);
    expect(chatPrompt([{ role: 'user', text }]).length / 4).toBeGreaterThanOrEqual(2000);
  });
});

describe('plainPrompt', () => {
  it('is at least one token', () => {
    expect(plainPrompt('')).toHaveLength(4);
    expect(plainPrompt('abcde')).toHaveLength(8);
  });
});

describe('contentText', () => {
  it.each([
    ['text', 'text'],
    [null, ''],
    [undefined, ''],
    [[{ type: 'text', text: 'one ' }, 'two'], 'one two'],
    [[{ type: 'image_url', image_url: { url: 'data:,' } }], '{"type":"image_url","image_url":{"url":"data:,"}}'],
  ])('%j is %j', (content, text) => {
    expect(contentText(content)).toBe(text);
  });
});

describe('generatedTokens', () => {
  it('says it is simulated, four bytes a token, the same for the same seed', () => {
    const tokens = generatedTokens(1, 200);
    expect(tokens.join('')).toMatch(/^\[simulated\] \w/);
    expect(tokens.every((token) => Buffer.byteLength(token) === 4)).toBe(true);
    expect(generatedTokens(1, 200)).toEqual(tokens);
    expect(generatedTokens(2, 200)).not.toEqual(tokens);
    expect(generatedTokens(1, 2)).toEqual(tokens.slice(0, 2));
  });

  it('stops by itself after 32 to 160 tokens', () => {
    const lengths = Array.from({ length: 1000 }, (_, seed) => naturalOutputTokens(seed));
    expect(Math.min(...lengths)).toBe(32);
    expect(Math.max(...lengths)).toBe(160);
  });
});
