import { describe, expect, it } from 'vitest';
import { ChangeJournal } from './change-journal.ts';
import type { PlainRequest } from './worker-messages.ts';

function request(method: string, path: string, body?: object): PlainRequest {
  return { method, path, headers: [], body: body && JSON.stringify(body) };
}

describe('the journal of changes by hand', () => {
  it('keeps the latest change of each matter, in the order in which they were made', () => {
    const journal = new ChangeJournal();
    const weights = '/api/v1/routes/chat/weights';
    const set = request('PUT', weights, { shiftShare: 0.5 });
    const reset = request('DELETE', weights);
    const add = request('POST', '/api/v1/pools/chat/endpoints', { address: '10.0.0.9:80' });
    const remove = request('DELETE', '/api/v1/pools/chat/endpoints/10.0.0.9%3A80');
    const other = request('POST', '/api/v1/pools/chat/endpoints', { address: '10.0.0.8:80' });
    for (const change of [set, add, other, remove, reset]) journal.note(change);
    expect(journal.list()).toEqual([other, remove, reset]);
  });

  it('leaves out what a worker that joins learns by itself', () => {
    const journal = new ChangeJournal();
    journal.note(request('PUT', '/api/v1/pools/chat/endpoints/10.0.0.9:80/state', { state: 'draining' }));
    journal.note(request('POST', '/api/v1/reload'));
    expect(journal.list()).toEqual([]);
  });
});
