import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compileGlob } from './glob.ts';

describe('compileGlob', () => {
  it.each([
    ['gpt-4', 'gpt-4', true],
    ['gpt-4', 'gpt-4o', false],
    ['gpt-4', 'xgpt-4', false],
    ['gpt-4', 'GPT-4', false],
    ['', '', true],
    ['', 'a', false],
    ['*', '', true],
    ['*', 'anything at/all', true],
    ['**', '', true],
    ['gpt-*', 'gpt-', true],
    ['gpt-*', 'gpt-4', true],
    ['gpt-*', 'gpt', false],
    ['*-instruct', 'llama-3-instruct', true],
    ['*-instruct', 'llama-3-instruct-v2', false],
    ['meta-llama/*', 'meta-llama/Llama-3.1-8B', true],
    ['*/Llama-*-8B', 'meta-llama/Llama-3.1-8B', true],
    ['a*b*c', 'abc', true],
    ['a*b*c', 'a-b-b-c', true],
    ['a*b*c', 'acb', false],
    // Start and end must not share characters.
    ['ab*ba', 'aba', false],
    ['ab*ba', 'abba', true],
    ['a*a', 'a', false],
    // Nor may the middle reach into the end.
    ['a*bc*c', 'abc', false],
    ['a*bc*c', 'abcc', true],
    ['*a*a*', 'a', false],
    ['*a*a*', 'aa', true],
    // Nothing but the star is special.
    ['a.c', 'abc', false],
    ['a.c', 'a.c', true],
    ['[ab]?', 'a', false],
    ['[ab]?', '[ab]?', true],
    ['a\\*', 'a\\anything', true],
    ['/v1/*', '/v1/chat/completions', true],
  ])('%j against %j: %j', (pattern, text, expected) => {
    expect(compileGlob(pattern)(text)).toBe(expected);
  });

  it('agrees with a regular expression on any pattern', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 });
    fc.assert(
      fc.property(letters, fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 10 }), (pattern, text) => {
        const expression = new RegExp(`^${pattern.replaceAll('*', '.*')}$`);
        expect(compileGlob(pattern)(text)).toBe(expression.test(text));
      }),
      { numRuns: 2_000 },
    );
  });

  it('cannot be blown up: a pattern that takes a backtracking matcher ages is done at once', () => {
    const matches = compileGlob(`${'a*'.repeat(100)}b`);
    const startMs = performance.now();
    expect(matches('a'.repeat(100_000))).toBe(false);
    // Linear work takes a few ms at most; backtracking over 100 stars would never end.
    expect(performance.now() - startMs).toBeLessThan(2_000);
  });
});
