import { describe, expect, it } from 'vitest';
import { toPromptFields } from './prompt-fields.ts';

const chat = ['messages', 'tools', 'functions'];
const anthropic = ['system', 'messages', 'tools'];

describe('toPromptFields', () => {
  it.each([
    ['/v1/chat/completions', chat],
    ['/chat/completions', chat],
    ['/openai/v1/chat/completions', chat],
    ['/openai/deployments/gpt/chat/completions?api-version=2024-06-01', chat],
    ['/v1/completions', ['prompt']],
    ['/v1/responses', ['instructions', 'input', 'tools']],
    ['/v1/embeddings', ['input']],
    ['/v1/messages', anthropic],
    ['/v1/messages?beta=true', anthropic],
    ['/anthropic/v1/messages', anthropic],
  ])('%s', (path, fields) => {
    expect(toPromptFields(path)).toEqual(fields);
  });

  it.each([
    '',
    '/',
    '?',
    '/v1/models',
    '/v1/messages/count_tokens',
    '/v1/responses/resp_1',
    '/v1/chatcompletions',
    '/v1/mycompletions',
    '/v1/CHAT/COMPLETIONS',
    '/health?next=/v1/completions',
    '/v1/models?/chat/completions',
    'completions',
  ])('%j is not an LLM body', (path) => {
    expect(toPromptFields(path)).toBeUndefined();
  });

  it('gives the same frozen array each time', () => {
    const fields = toPromptFields('/v1/embeddings');
    expect(toPromptFields('/other/embeddings?x=1')).toBe(fields);
    expect(Object.isFrozen(fields)).toBe(true);
  });
});
