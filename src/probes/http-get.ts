import { type Agent, type ClientRequest, type OutgoingHttpHeaders, request as httpRequest } from 'node:http';
import type { Clock } from '../router/ports.ts';

/** One question to a model server, by plain HTTP. */
export interface Question {
  /** IP address, IPv6 without brackets. */
  readonly host: string;
  readonly port: number;
  readonly path: string;
  readonly headers: OutgoingHttpHeaders;
  /** From now until the answer is whole, connecting included. */
  readonly timeoutMs: number;
  /** A body that is larger is not read on. */
  readonly bodyBytesMax: number;
  /** Whether the body matters after that status. If not, the answer is over with its headers, and the connection is closed. */
  readonly wantsBody: (status: number) => boolean;
  readonly agent: Agent;
  readonly clock: Clock;
  /** Breaks the question off: it then ends as `unreachable`. */
  readonly signal: AbortSignal;
}

/** Why there is no answer, as a stable code. */
export type NoAnswer =
  /** No connection, or it broke. */
  | 'unreachable'
  /** Not whole in time. */
  | 'timeout'
  /** The body is larger than allowed. */
  | 'too-large'
  /** Not HTTP. */
  | 'malformed';

export type Answer =
  | { readonly ok: true; readonly status: number; readonly body: Buffer }
  /** `detail` is for people. */
  | { readonly ok: false; readonly cause: NoAnswer; readonly detail: string };

/** A deadline that fires later than this, in ms, tells that this process did not run, and perhaps not that the server did not answer. */
const latenessMsMax = 5;

/**
 * Asks by GET, follows no redirect, and never rejects. On a connection that was used before and is closed in that very moment, which says
 * nothing of the server, the question is asked once more.
 */
export async function httpGet(question: Question): Promise<Answer> {
  const startedMs = question.clock.nowMs();
  const answer = await ask(question);
  if (answer !== 'connection-was-closed') return answer;
  const timeoutMs = Math.max(1, question.timeoutMs - (question.clock.nowMs() - startedMs));
  const second = await ask({ ...question, timeoutMs });
  return second === 'connection-was-closed' ? { ok: false, cause: 'unreachable', detail: 'the connection was closed' } : second;
}

function ask(question: Question): Promise<Answer | 'connection-was-closed'> {
  const { host, port, path, headers, timeoutMs, bodyBytesMax, wantsBody, agent, clock, signal } = question;
  return new Promise((resolve) => {
    let done = false;
    const end = (answer: Answer | 'connection-was-closed'): void => {
      if (done) return;
      done = true;
      clearTimeout(deadline);
      resolve(answer);
    };
    const fail = (cause: NoAnswer, detail: string): void => {
      end({ ok: false, cause, detail });
      request.destroy();
    };
    const request: ClientRequest = httpRequest({ host, port, path, headers, agent, signal }, (response) => {
      const { statusCode: status = 0 } = response;
      if (!wantsBody(status)) {
        end({ ok: true, status, body: Buffer.alloc(0) });
        request.destroy();
        return;
      }
      const pieces: Buffer[] = [];
      let bytes = 0;
      response.on('data', (piece: Buffer) => {
        bytes += piece.length;
        if (bytes > bodyBytesMax) fail('too-large', `${path} is larger than ${bodyBytesMax} bytes`);
        else pieces.push(piece);
      });
      response.on('end', () => end({ ok: true, status, body: Buffer.concat(pieces) }));
      response.on('error', (error) => end(toFailure(error)));
    });
    request.on('error', (error: NodeJS.ErrnoException) => {
      if (request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')) end('connection-was-closed');
      else end(toFailure(error));
    });
    request.on('close', () => end({ ok: false, cause: 'unreachable', detail: 'the connection was closed' }));

    let dueMs = clock.nowMs() + timeoutMs;
    let isExtended = false;
    const expire = (): void => {
      const lateMs = clock.nowMs() - dueMs;
      // What did not run meanwhile was this process: the answer may lie there unread. The server gets that time back, once.
      if (lateMs > latenessMsMax && !isExtended) {
        isExtended = true;
        const moreMs = Math.min(lateMs, timeoutMs);
        dueMs = clock.nowMs() + moreMs;
        deadline = setTimeout(expire, moreMs);
        return;
      }
      fail('timeout', `${path} took longer than ${Math.round(timeoutMs)} ms`);
    };
    let deadline = setTimeout(expire, timeoutMs);
    request.end();
  });
}

function toFailure(error: NodeJS.ErrnoException): Answer {
  return { ok: false, cause: error.code?.startsWith('HPE_') === true ? 'malformed' : 'unreachable', detail: error.message };
}
