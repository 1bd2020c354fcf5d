import { setTimeout as sleep } from 'node:timers/promises';
import type OpenAI from 'openai';
import { ask, createChatClient, type RequestRecord } from './chat-client.ts';
import { proseOf, systemPrompt } from './prose.ts';

export interface ChatTrafficOptions {
  /** Where Envoy listens. */
  readonly baseUrl: string;
  readonly requests: number;
  /** Conversations going on at the same time; each has one request in flight at most. */
  readonly concurrency: number;
  readonly turnsPerSession: number;
  onRecord(record: RequestRecord): void;
}

const startGapMs = 150;

/**
 * Multi-turn chats through Envoy with the official client: every session brings a document of its own, asks about it turn by
 * turn, and sends the whole history each time, as chat clients do. Every other session streams.
 */
export async function sendChatTraffic(options: ChatTrafficOptions): Promise<void> {
  const client = createChatClient(options.baseUrl);
  let sent = 0;
  let sessions = 0;
  const converse = async (starter: number): Promise<void> => {
    // Conversations do not all begin at the same moment.
    await sleep(starter * startGapMs);
    while (sent < options.requests) {
      const session = sessions;
      sessions += 1;
      const history: OpenAI.ChatCompletionMessageParam[] = [{ role: 'system', content: systemPrompt }];
      for (let turn = 0; turn < options.turnsPerSession && sent < options.requests; turn += 1) {
        sent += 1;
        const question = turn === 0 ? `Read this log, then answer. ${proseOf(session + 1, 2_200 + ((session * 37) % 1_400))}` : proseOf(session * 100 + turn, 40);
        history.push({ role: 'user', content: question });
        const { record, answer } = await ask(client, { kind: 'chat', session, messages: history, answerTokensMax: 24, stream: session % 2 === 1 });
        options.onRecord(record);
        history.push({ role: 'assistant', content: answer });
      }
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, (_, starter) => converse(starter)));
}
