import type OpenAI from 'openai';
import { SeededRng } from '../sim/clock/seeded-rng.ts';
import type { PlannedRequest } from './planned-traffic.ts';
import { proseOf, systemPrompt } from './prose.ts';

/** The two kinds of requests that share the servers. */
export type MixedKind = 'short' | 'document';

/** How one kind of session behaves. */
interface SessionShape {
  readonly kind: MixedKind;
  /** Mean time between starts of sessions, and between the turns of one, in ms; both exponential. */
  readonly startGapMs: number;
  readonly turnGapMs: number;
  readonly turns: number;
  /** Tokens that the first question brings along, and each later one: least and most. */
  readonly firstTokens: readonly [number, number];
  readonly laterTokens: readonly [number, number];
  readonly answerTokensMax: number;
}

const shapes: readonly SessionShape[] = [
  { kind: 'short', startGapMs: 250, turnGapMs: 3_000, turns: 3, firstTokens: [60, 600], laterTokens: [30, 200], answerTokensMax: 24 },
  { kind: 'document', startGapMs: 1_600, turnGapMs: 4_000, turns: 4, firstTokens: [26_000, 34_000], laterTokens: [30, 200], answerTokensMax: 48 },
];

/** A request before its text is written out: a plan keeps few of them, and documents are long. */
interface Outline {
  readonly shape: SessionShape;
  readonly session: number;
  readonly arrivalMs: number;
  /** Tokens of the session's questions up to this one. */
  readonly questionTokens: readonly number[];
}

/**
 * Chats of a few hundred tokens, and sessions about documents of 30 000, as an open loop: requests arrive when the plan says, however
 * long the answers take, so that a queue shows as one. Equal seeds give equal plans, prompts included; the answers that later turns
 * repeat are made up, so that every policy gets the same prompts.
 */
export function planMixedTraffic(requests: number, seed: number): PlannedRequest[] {
  const outlines = shapes.flatMap((shape, i) => {
    const rng = new SeededRng(seed, shape.kind);
    let startMs = 0;
    // As many sessions as would do if all requests were of this kind.
    return Array.from({ length: requests }, (_, n) => {
      startMs += rng.exponential(shape.startGapMs);
      return outlineSession(shape, n * shapes.length + i, startMs, rng);
    }).flat();
  });
  return outlines
    .sort((a, b) => a.arrivalMs - b.arrivalMs)
    .slice(0, requests)
    .map(writeOut);
}

function outlineSession(shape: SessionShape, session: number, startMs: number, rng: SeededRng): Outline[] {
  const questionTokens: number[] = [];
  let arrivalMs = startMs;
  return Array.from({ length: shape.turns }, (_, turn) => {
    if (turn > 0) arrivalMs += rng.exponential(shape.turnGapMs);
    questionTokens.push(Math.round(rng.between(...(turn === 0 ? shape.firstTokens : shape.laterTokens))));
    return { shape, session, arrivalMs, questionTokens: [...questionTokens] };
  });
}

function writeOut({ shape: { kind, answerTokensMax }, session, arrivalMs, questionTokens }: Outline): PlannedRequest {
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: 'system', content: systemPrompt }];
  for (const [turn, tokens] of questionTokens.entries()) {
    if (turn > 0) messages.push({ role: 'assistant', content: proseOf(session + 1, answerTokensMax) });
    messages.push({ role: 'user', content: proseOf((session + 1) * 100 + turn, tokens) });
  }
  return { kind, session, arrivalMs, messages, answerTokensMax };
}
