import { WebSocketServer } from 'ws';
import { simulatedHeader, type UpgradeHandler } from './model-server.ts';

/** Serves websockets that send back every message as it came, text or bytes: a stand-in for a realtime API. */
export function createRealtimeEcho(): UpgradeHandler {
  const sockets = new WebSocketServer({ noServer: true });
  return (request, socket, head, servedBy) => {
    const tell = (headers: string[], opened: unknown): void => {
      if (opened === request) headers.push(`${simulatedHeader}: true`, `x-served-by: ${servedBy}`);
    };
    sockets.on('headers', tell);
    sockets.handleUpgrade(request, socket, head, (client) => {
      client.on('error', () => undefined);
      client.on('message', (data, isBinary) => client.send(data, { binary: isBinary }));
    });
    sockets.off('headers', tell);
  };
}
