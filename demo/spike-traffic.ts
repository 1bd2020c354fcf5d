import type OpenAI from 'openai';
import { SeededRng } from '../sim/clock/seeded-rng.ts';
import type { PlannedRequest } from './planned-traffic.ts';
import { proseOf, systemPrompt } from './prose.ts';

/** Where in a spike a request falls. */
export type SpikePhase = 'before' | 'spike' | 'after';

/** How long the load is as usual, eight times as high, and as usual again, in ms; and what is usual, in requests a second. */
export interface SpikeShape {
  readonly beforeMs: number;
  readonly spikeMs: number;
  readonly afterMs: number;
  readonly usualPerSecond: number;
}

/** How many times the usual load a spike is. */
export const spikeFactor = 8;

/** Of sessions: turns at most, the share of requests that go on with one that is there, and the least time between two turns, in ms. */
const turnsMax = 4;
const goesOnShare = 0.5;
const thinkMs = 3_000;
/** Tokens that a session's first question brings along, each later one, and an answer: least and most. */
const firstTokens = [2_500, 4_500] as const;
const laterTokens = [30, 120] as const;
const answerTokens = 16;

interface Session {
  readonly id: number;
  readonly messages: OpenAI.ChatCompletionMessageParam[];
  turns: number;
  lastMs: number;
}

/**
 * Chats about documents of some thousand tokens, as an open loop: arrivals at random, eight times as dense in the middle. Half of the
 * requests go on with a chat. Equal seeds give equal plans, prompts included.
 */
export function planSpike({ beforeMs, spikeMs, afterMs, usualPerSecond }: SpikeShape, seed: number): PlannedRequest[] {
  const rng = new SeededRng(seed, 'spike');
  const plan: PlannedRequest[] = [];
  const sessions: Session[] = [];
  let started = 0;
  let atMs = 0;
  for (;;) {
    const phase = phaseAt(atMs);
    atMs += rng.exponential(1_000 / (usualPerSecond * (phase === 'spike' ? spikeFactor : 1)));
    const endsMs = phase === 'before' ? beforeMs : phase === 'spike' ? beforeMs + spikeMs : beforeMs + spikeMs + afterMs;
    // A gap that began before the rate changed says nothing of the time after it: chance has no memory.
    if (atMs >= endsMs) {
      if (phase === 'after') return plan;
      atMs = endsMs;
      continue;
    }
    const waiting = sessions.filter(({ turns, lastMs }) => turns < turnsMax && atMs - lastMs >= thinkMs);
    const going = waiting.length > 0 && rng.chance(goesOnShare) ? waiting[rng.below(waiting.length)] : undefined;
    const session = going ?? { id: started, messages: [{ role: 'system' as const, content: systemPrompt }], turns: 0, lastMs: atMs };
    if (going === undefined) {
      started += 1;
      sessions.push(session);
    } else {
      session.messages.push({ role: 'assistant', content: proseOf(session.id + 1, answerTokens) });
    }
    const range: readonly [number, number] = going === undefined ? firstTokens : laterTokens;
    const tokens = Math.round(rng.between(...range));
    session.messages.push({ role: 'user', content: proseOf((session.id + 1) * 100 + session.turns, tokens) });
    session.turns += 1;
    session.lastMs = atMs;
    plan.push({ kind: phase, session: session.id, arrivalMs: atMs, messages: [...session.messages], answerTokensMax: answerTokens });
  }

  function phaseAt(ms: number): SpikePhase {
    return ms < beforeMs ? 'before' : ms < beforeMs + spikeMs ? 'spike' : 'after';
  }
}
